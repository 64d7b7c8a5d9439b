"""The commands as the tests call them, and a protected image."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import blockreplica as br
from blockreplica.cli import main as program

SIZE = 4 << 20
SEED = 20


@dataclass(slots=True)
class Answer:
    """What a command said."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Its stdout, which must be one JSON document."""
        assert self.out, self.err
        return json.loads(self.out)


Ask = Callable[..., Answer]


@pytest.fixture
def ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Ask:
    """Run a command in a state folder of its own."""
    monkeypatch.setenv("BLOCKREPLICA_STATE", str(tmp_path / "state"))

    def run(*arguments: object) -> Answer:
        code = program.run([str(argument) for argument in arguments])
        return Answer(code, *capsys.readouterr())

    return run


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A sparse image: some data, a hole, some data."""
    path = tmp_path / "primary" / "vm.img"
    path.parent.mkdir()
    chance = random.Random(SEED)
    with path.open("wb") as file:
        file.truncate(SIZE)
        file.write(chance.randbytes(300_000))
        file.seek(3 << 20)
        file.write(chance.randbytes(70_000))
    return path


def write(image: Path, *writes: tuple[int, bytes]) -> None:
    """Write through a tracker."""
    with br.track(image) as tracked:
        for offset, data in writes:
            tracked.pwrite(data, offset)


@pytest.fixture
def protected(ask: Ask, image: Path, tmp_path: Path) -> Path:
    """The image, protected as `vm`."""
    write(image, (0, b"tracked"))
    assert ask("protect", image, "--to", tmp_path / "store", "--name", "vm").code == 0
    return image
