"""Guests for the tests of the whole: their kernel is got once a session, and every one is ended with its test."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from e2e.commands import ask, image, protected
from e2e.guest import Guest, Kit, Unavailable, get_kit

__all__ = ["ask", "boot", "image", "kit", "protected"]

Boot = Callable[..., Guest]


@pytest.fixture(scope="session")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Kit:
    """What guests boot, got by the first of the workers that needs it."""
    if shutil.which("qemu-system-x86_64") is None:
        pytest.skip("qemu-system-x86_64 is not installed (Debian: qemu-system-x86)")
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "guest-kit"
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            return get_kit(folder)
        except Unavailable as reason:
            pytest.skip(str(reason))


@pytest.fixture
def boot(kit: Kit, tmp_path: Path) -> Iterator[Boot]:
    """Boots a guest: `boot(script, disk…)`; see `guest.nbd` and `guest.raw` for disks."""
    guests: list[Guest] = []

    def start(script: str, *disks: dict[str, Any]) -> Guest:
        guests.append(Guest(kit, tmp_path / f"guest{len(guests)}", script, disks))
        return guests[-1]

    yield start
    for guest in guests:
        guest.kill()
