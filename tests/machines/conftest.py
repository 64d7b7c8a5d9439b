"""A daemon with disks, ended with the test."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from .daemon import MIB, Daemon, make_disk


@pytest.fixture(autouse=True)
def state_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the catalog of this test is."""
    monkeypatch.setenv("BLOCKREPLICA_STATE", str(tmp_path / "state"))
    return tmp_path / "state"


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """A folder whose name is short enough for sockets in it."""
    folder = Path(tempfile.mkdtemp(prefix="brq"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def daemon(short_folder: Path) -> Iterator[Callable[..., Daemon]]:
    """Makes and starts daemons with a disk for each format named."""
    started: list[Daemon] = []

    def start(*formats: str, size: int = 8 * MIB, relative: bool = False) -> Daemon:
        images = [(make_disk(short_folder / f"d{at}.img", fmt, size), fmt) for at, fmt in enumerate(formats)]
        if relative:
            images = [(Path(path.name), fmt) for path, fmt in images]
        started.append(Daemon(short_folder, images).start())
        return started[-1]

    yield start
    for each in started:
        each.stop()


@pytest.fixture
def small_disk(short_folder: Path) -> Iterator[Path]:
    """A file system of its own, with 80 MiB."""
    folder = short_folder / "small"
    folder.mkdir()
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=80m", "none", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"mounting does not work here: {mounted.stderr!r}")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)
