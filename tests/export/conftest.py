"""An image of its own for every test, and the exports that a test began, ended with it."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import blockreplica as br
from blockreplica.errors import BlockReplicaError
from blockreplica.tracking import export as exports

MIB = 1 << 20
SIZE = 64 * MIB


@pytest.fixture(autouse=True)
def _needs_nbdkit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if shutil.which("nbdkit") is None or not exports.PLUGIN.exists():
        pytest.skip("nbdkit or our plugin for it is missing")
    monkeypatch.setenv("BLOCKREPLICA_STATE", str(tmp_path / "state"))


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "vm.img"
    path.touch()
    os.truncate(path, SIZE)
    return path


@pytest.fixture
def serve() -> Iterator[Callable[..., br.Export]]:
    """`br.export`, ended after the test whatever becomes of it."""
    begun: list[br.Export] = []

    def start(*arguments: Any, **options: Any) -> br.Export:
        options.setdefault("threads", 16)  # as on a large machine: what can go wrong between them shall
        begun.append(br.export(*arguments, **options))
        return begun[-1]

    yield start
    for one in begun:
        with contextlib.suppress(BlockReplicaError):
            one.close()
        with contextlib.suppress(ProcessLookupError):
            if one._process.poll() is None:
                os.kill(one.pid, signal.SIGKILL)
                one._process.wait()
