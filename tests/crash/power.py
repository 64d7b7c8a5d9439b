"""What a disk may hold after a power cut, from the notes of a `RecordingFiles` up to some call.

What was fsynced is there; of the rest any part may be, in any order, torn at sectors; names are durable only when their
folder was fsynced, and appear in the order they were made. Of the contents drawn at random most are alike (nothing
waits after an fsync): `contents` hands out each only once, so that a count of them is a count of states.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import xxhash

from crash.recording import Op

SECTOR = 512
ALIKE = 3  # so many draws in a row that were seen before: there is nothing else to come before the next change


@dataclass(frozen=True, slots=True)
class Content:
    """One possible content: folders and files by their paths below the root. Equal contents have equal keys."""

    folders: list[str]
    files: dict[str, bytes]
    key: bytes

    def build(self, target: Path) -> None:
        """Write it below `target`."""
        for folder in self.folders:
            (target / folder).mkdir(parents=True, exist_ok=True)
        for name, data in self.files.items():
            path = target / name
            if path.parent.is_dir():
                path.write_bytes(data)


@dataclass(slots=True)
class _Inode:
    durable: bytes
    sum: bytes = b""
    waiting: list[Op] = field(default_factory=list)

    def settle(self) -> None:
        self.durable, self.waiting, self.sum = _done(self.durable, self.waiting), [], b""

    def possible(self, rng: random.Random | None) -> tuple[bytes, bytes]:
        """A content and its checksum."""
        if not self.waiting:
            self.sum = self.sum or xxhash.xxh3_128_digest(self.durable)
            return self.durable, self.sum
        data = _done(self.durable, _survivors(self.waiting, rng))
        return data, xxhash.xxh3_128_digest(data)


class PowerCut:
    """Starts from a folder whose content is durable; `feed` it notes; `build` what a cut may leave."""

    def __init__(self, root: Path) -> None:
        self._root = str(root)
        self._inodes: dict[int, _Inode] = {}
        self._names: dict[str, int] = {}
        self._folders: set[str] = set()
        self._moves: dict[str, list[Op]] = {}
        for folder, _, names in os.walk(root):
            self._folders.add(folder)
            for name in names:
                path = Path(folder) / name
                self._names[str(path)] = path.stat().st_ino
                self._inodes[path.stat().st_ino] = _Inode(path.read_bytes())

    def feed(self, op: Op) -> None:
        """Let one change reach the (volatile) system."""
        if op.what in ("write", "zero", "truncate"):
            self._inodes[op.inode].waiting.append(op)
        elif op.what == "sync":
            self._inodes[op.inode].settle()
        elif op.what == "lost":  # a failed fsync: what waited reads as written for as long as the system runs
            self._inodes[op.inode].waiting.clear()
        elif op.what == "syncdir":
            for move in self._moves.pop(op.path, []):
                _move(self._names, self._folders, move)
        elif op.what != "forget":
            if op.what == "create":
                self._inodes[op.inode] = _Inode(b"")
            self._moves.setdefault(os.path.dirname(op.path), []).append(op)

    def durable(self, inode: int) -> bytes:
        """What the disk holds of a file for certain."""
        return self._inodes[inode].durable

    def possible(self, rng: random.Random | None) -> Content:
        """A content as the disk may hold it; without `rng` all that was written is there (a mere kill)."""
        names, folders = dict(self._names), set(self._folders)
        for moves in self._moves.values():
            for move in moves[: len(moves) if rng is None else rng.randint(0, len(moves))]:
                _move(names, folders, move)
        files, keys = {}, []
        for path, number in names.items():
            data, key = self._inodes[number].possible(rng)
            files[path[len(self._root) + 1 :]] = data
            keys.append((path, key))
        below = sorted(os.path.relpath(folder, self._root) for folder in folders)
        return Content(below, files, repr((below, sorted(keys))).encode())

    def build(self, target: Path, rng: random.Random | None) -> None:
        """Write a possible content below `target`."""
        self.possible(rng).build(target)


def contents(cut: PowerCut, ops: Iterable[Op], draws: int, seed: int) -> Iterator[tuple[int, Op, Content]]:
    """What the disk may hold before each change, all of them different, from at most `draws` draws before each."""
    seen: set[bytes] = set()
    for at, op in enumerate(ops):
        alike = 0
        for draw in range(draws):
            rng = None if draw == 0 and at % 4 == 0 else random.Random(seed * 1_000_003 + at * 1000 + draw)
            content = cut.possible(rng)
            alike = alike + 1 if content.key in seen else 0
            if not alike:
                seen.add(content.key)
                yield at, op, content
            elif alike == ALIKE:
                break
        cut.feed(op)


def _move(names: dict[str, int], folders: set[str], op: Op) -> None:
    if op.what == "create":
        names[op.path] = op.inode
    elif op.what == "rename":
        if op.path in names:
            names[op.target] = names.pop(op.path)
    elif op.what == "unlink":
        names.pop(op.path, None)
    elif op.what == "mkdir":
        folders.add(op.path)


def _survivors(waiting: list[Op], rng: random.Random | None) -> list[Op]:
    """Some of the writes that were not fsynced, shuffled, some of them torn."""
    if rng is None:
        return waiting
    keep = rng.random()
    chosen = [op for op in waiting if rng.random() < keep]
    if rng.random() < 0.5:
        rng.shuffle(chosen)
    return [_torn(op, rng) if op.what == "write" and rng.random() < 0.2 else op for op in chosen]


def _torn(op: Op, rng: random.Random) -> Op:
    sectors = -(-op.length // SECTOR)
    cut = rng.randint(0, sectors) * SECTOR
    if rng.random() < 0.5:
        return Op("write", op.inode, offset=op.offset, data=op.data[:cut])
    return Op("write", op.inode, offset=op.offset + min(cut, op.length), data=op.data[cut:])


def _done(durable: bytes, ops: list[Op]) -> bytes:
    content = bytearray(durable)
    for op in ops:
        _do(content, op)
    return bytes(content)


def _do(content: bytearray, op: Op) -> None:
    if op.what == "truncate":
        del content[op.length :]
        content.extend(bytes(op.length - len(content)))
    elif op.what == "zero":
        end = min(op.offset + op.length, len(content))
        content[op.offset : end] = bytes(max(0, end - op.offset))
    elif op.data:
        end = op.offset + len(op.data)
        content.extend(bytes(max(0, end - len(content))))
        content[op.offset : end] = op.data
