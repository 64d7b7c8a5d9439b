"""A relationship with three points, what each of them holds, and the ways in which its files go bad."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import blockreplica as br
from blockreplica.cli.main import run

SIZE = (2 << 20) + 3000
BLOCK = 4096


class Scene:
    """A tracked image with three points, keep 10, and what each point holds."""

    def __init__(
        self,
        folder: Path,
        capsys: pytest.CaptureFixture[str],
        *,
        tracked: bool = True,
        store: Path | None = None,
        data: int = SIZE // 2,
    ) -> None:
        self.folder, self._capsys, self.rng = folder, capsys, random.Random(3)
        self.image, self.store, self.tracked = folder / "vm.img", store or folder / "store", tracked
        self.models: dict[str, bytes] = {}
        self.image.write_bytes(self.rng.randbytes(data) + bytes(SIZE - data))
        self.write()
        self.cli("protect", self.image, "--to", self.store, "--name", "vm", "--block-size", BLOCK, "--keep", 60)
        self.remember()
        for _ in range(2):
            self.write()
            self.sync()

    @property
    def replica(self) -> Path:
        return self.store / "vm"

    @property
    def disk(self) -> Path:
        return self.replica / "disk0"

    def write(self) -> None:
        """Write here and there; the same blocks again and again, so that undo logs matter."""
        rng = self.rng
        places = [(rng.randrange(16) * 65536 + rng.randrange(5000), rng.randbytes(3000)) for _ in range(4)]
        if not self.tracked:
            with self.image.open("r+b") as file:
                for offset, data in places:
                    os.pwrite(file.fileno(), data, offset)
            return
        with br.track(self.image) as image:
            for offset, data in places:
                image.pwrite(data, offset)
            image.zero(self.rng.randrange(16) * 65536, 8192)

    def cli(self, *arguments: object, code: int = 0) -> Any:
        """Run a command in this process; its JSON, or its error's."""
        got = run([*map(str, arguments), "--json"])
        out, err = self._capsys.readouterr()
        assert got == code, f"{arguments}: exit code {got}, wanted {code}: {err or out}"
        if code:
            error = json.loads(err.splitlines()[-1])["error"]
            assert error["message"], error
            return error | {"out": out}
        return json.loads(out)

    def remember(self) -> None:
        for point in br.relationship("vm").points():
            self.models.setdefault(point.id, self.image.read_bytes())

    def sync(self, *arguments: object) -> Any:
        """A sync that works; its point is the image."""
        done = self.cli("sync", "vm", *arguments)
        self.remember()
        assert done["kind"] == "crash-consistent"
        assert self.recovered(done["point"]) == self.image.read_bytes()
        return done

    def recovered(self, point: str) -> bytes | None:
        """What `recover` gives: None for a typed error; then no file may stand there."""
        target = self.folder / "recovered"
        target.unlink(missing_ok=True)
        code = run(["recover", "vm", "--point", point, "--to", str(target)])
        self._capsys.readouterr()
        assert (code == 0) == target.exists()
        assert code in (0, 3, 4, 5, 6, 8), code
        return target.read_bytes() if code == 0 else None

    def right(self, *points: str) -> None:
        """These points are right; the others are right or refused."""
        for point, model in self.models.items():
            got = self.recovered(point)
            if point in points:
                assert got is not None, f"point {point} can't be recovered"
            assert got is None or got == model, f"point {point} is wrong"

    def artifacts(self, suffix: str) -> list[Path]:
        return sorted(self.folder.glob(f"vm.img.*{suffix}"))


def flipped(path: Path) -> None:
    """A bit in the middle."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 16
    path.write_bytes(data)


def truncated(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def emptied(path: Path) -> None:
    os.truncate(path, 0)


def missing(path: Path) -> None:
    path.unlink()


def garbage(path: Path) -> None:
    path.write_bytes(random.Random(1).randbytes(path.stat().st_size))


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGE: list[Callable[[Path], None]] = [flipped, truncated, emptied, missing, garbage]
ALL = ("1.1", "1.2", "1.3")
