"""A small disk of its own, with a file system whose power can be cut."""

from __future__ import annotations

import fcntl
import os
import shutil
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

GOINGDOWN, NO_LOG_FLUSH = 0x8004587D, 2


@contextmanager
def loop_mounted(parent: Path, kind: str, size: int) -> Iterator[Path]:
    """A folder on a file system of its own; `<folder>.img` is its device. Skips where that can't be."""
    device, folder = parent / "disk.img", parent / "disk"
    make = shutil.which(f"mkfs.{kind}")
    if os.geteuid() != 0 or make is None:
        pytest.skip(f"no right to mount, or no mkfs.{kind}")
    folder.mkdir()
    device.touch()
    os.truncate(device, size)
    subprocess.run([make, "-q", device], check=True, capture_output=True)
    if subprocess.run(["mount", "-o", "loop", device, folder], capture_output=True).returncode != 0:
        pytest.skip(f"{kind} can't be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], capture_output=True)


def lose_power(folder: Path) -> None:
    """All that was not made durable is lost; nothing more is written."""
    fd = os.open(folder, os.O_RDONLY)
    fcntl.ioctl(fd, GOINGDOWN, struct.pack("<I", NO_LOG_FLUSH))
    os.close(fd)


def mount_again(folder: Path) -> None:
    """What the next boot does; nobody has a file open there any more."""
    subprocess.run(["umount", folder], check=True)
    subprocess.run(["mount", "-o", "loop", folder.with_suffix(".img"), folder], check=True)
