"""The stores that the contract is held against, each with a back door of its own past the code under test.

A new kind of store adds a class here and its name to STORES, and all of `test_store.py` runs against it.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Protocol

from blockreplica.stores import DirectoryStore


class BackDoor(Protocol):
    """A store, and what it holds as only its files tell."""

    def create(self) -> DirectoryStore: ...
    def open(self) -> DirectoryStore: ...
    def newest(self, name: str, disk: int) -> bytes: ...
    def epochs(self, name: str) -> list[int]: ...
    def flip(self, name: str, disk: int, offset: int) -> None: ...


class Directory:
    """The directory store."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "store"

    def create(self) -> DirectoryStore:
        """A new store, or the one that is there."""
        return DirectoryStore.create(self.folder)

    def open(self) -> DirectoryStore:
        """The store that is there."""
        return DirectoryStore(self.folder)

    def newest(self, name: str, disk: int) -> bytes:
        """The newest content of a disk: a plain file."""
        return (self.folder / name / f"disk{disk}" / "disk.img").read_bytes()

    def epochs(self, name: str) -> list[int]:
        """The epochs of visible points: their records, up to the one that the state names."""
        state = json.loads((self.folder / name / "state").read_bytes().split(b"\n", 1)[1])
        points = self.folder / name / "points"
        there = [int(entry) for entry in os.listdir(points) if entry.isdigit()] if points.is_dir() else []
        return sorted(epoch for epoch in there if epoch <= state["epoch"])

    def flip(self, name: str, disk: int, offset: int) -> None:
        """One bit of the newest content, flipped."""
        with (self.folder / name / f"disk{disk}" / "disk.img").open("r+b") as file:
            file.seek(offset)
            byte = file.read(1)[0]
            file.seek(offset)
            file.write(bytes([byte ^ 1]))


STORES: dict[str, type[Directory]] = {"directory": Directory}
