"""One bit flipped, anywhere in a store: a point is read right, or not at all, and verify finds it.

With BLOCKREPLICA_FLIPS=0 every bit of every file, in about an hour of one core. Bits that have nothing to do with one
another are flipped at once and looked for one by one: a block of `disk.img`, and an undo log, each have one of theirs.
Points are read block by block, so that what is refused because of one flip hides
nothing of another: by the reader in C that serves points after every flip, by the one in Python and by recovering the
whole after those of records and indexes, and of one bit of each byte of the other files.

Not guarded, because nothing is believed of it: the lock file (the pid in it is for a message alone). Of a movement that
was interrupted verify does not look at INCOMPLETE (damaged, it makes the next sync compare everything), nor at what the
movement had overwritten in `disk.img` (every point has its before-image), nor at what of its growing log nobody reads.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

import pytest

from blockreplica.errors import BlockReplicaError
from blockreplica.manifest import PointRecord
from blockreplica.recovery.recover import read_checked, recover
from blockreplica.recovery.verify import Damage, verify
from blockreplica.stores import Replica
from crash.small_stores import BLOCK, FILES, SIZE, grown_old, interrupted, next_writes, written
from stores.model import commit, open_replica, put

BULK = {"disk.img", "checksums", "checksums.1", "checksums.2"}
UNVERIFIED = {"lock", "INCOMPLETE"}
#: Flips a file and test; 0: every bit of every file.
FLIPS = int(os.environ.get("BLOCKREPLICA_FLIPS", "12"))
#: "3/40": of them the third of forty parts (from 0), so that all can be gone through in pieces.
PART, PARTS = map(int, os.environ.get("BLOCKREPLICA_FLIPS_PART", "0/1").split("/"))
SEED = int(os.environ.get("BLOCKREPLICA_SEED", "5"))
Make = Callable[[Path, int], dict[str, bytes]]


@dataclass(frozen=True, slots=True)
class Flip:
    """Bit `bit` of the byte `at` of a file."""

    path: Path
    at: int
    bit: int

    def __str__(self) -> str:
        return f"{self.path.name} byte {self.at} bit {self.bit}"

    @property
    def thorough(self) -> bool:
        """Whether it is judged by all readers."""
        return self.bit == self.at % 8 or (self.path.name not in BULK and self.path.suffix != ".hrl")

    def is_in(self, damage: Damage) -> bool:
        """Whether that tells of this flip, and not of another that was done with it."""
        if self.path.name != "disk.img":
            return self.path.name in damage.what
        return damage.offset is not None and damage.offset <= self.at < damage.offset + damage.length


def units(path: Path, rng: random.Random) -> Iterator[list[Flip]]:
    """The flips of a file, or of the blocks that are judged by themselves."""
    size = path.stat().st_size
    step = BLOCK if path.name == "disk.img" else max(size, 1)
    for start in range(0, size, step):
        bits = range(start * 8, min(start + step, size) * 8)
        chosen = bits if FLIPS == 0 else sorted(rng.sample(bits, min(FLIPS, len(bits))))
        yield [Flip(path, bit // 8, bit % 8) for bit in chosen]


def rounds(store: Path, rng: random.Random) -> list[list[Flip]]:
    """The flips of all files: those alone that may meddle with others, then those of content together."""
    files = sorted(file for file in store.rglob("*") if file.is_file())
    content = [path for path in files if path.name == "disk.img" or path.suffix == ".hrl"]
    alone = [[flip] for path in files if path not in content for unit in units(path, rng) for flip in unit]
    together = zip_longest(*(unit for path in content for unit in units(path, rng)))
    return [*alone, *([flip for flip in some if flip] for some in together)][PART::PARTS]


@contextmanager
def flipped(flips: list[Flip]) -> Iterator[None]:
    """The store with these bits flipped."""
    turn(flips)
    yield
    turn(flips)


def turn(flips: list[Flip]) -> None:
    for flip in flips:
        fd = os.open(flip.path, os.O_RDWR)
        os.pwrite(fd, bytes([os.pread(fd, 1, flip.at)[0] ^ 1 << flip.bit]), flip.at)
        os.close(fd)


def blocks(block_size: int) -> Iterator[tuple[int, int]]:
    """Where the blocks of a disk begin and end."""
    for start in range(0, SIZE, block_size):
        yield start, min(start + block_size, SIZE)


def read_in_python(replica: Replica, point: PointRecord, model: bytes) -> int:
    """Read block by block; returns how many were refused."""
    refused = 0
    with replica.reader(point, 0) as reader:
        for start, end in blocks(reader.block_size):
            try:
                got = read_checked(reader, start, end - start)
            except BlockReplicaError:
                refused += 1
            else:
                assert got == model[start:end], f"point {point.id} gave wrong bytes at {start}"
    return refused


def read_in_c(replica: Replica, point: PointRecord, model: bytes) -> int:
    """The same as `serve-point` reads."""
    refused, place = 0, replica.place(point, 0)
    try:
        overlay = place.overlay()
    except OSError:
        return 1
    with closing(overlay):
        for start, end in blocks(place.block_size):
            piece = bytearray(end - start)
            try:
                overlay.pread_into(piece, start)
            except OSError:
                refused += 1
            else:
                assert piece == model[start:end], f"point {point.id} served wrong bytes at {start}"
    return refused


def read_points(replica: Replica, models: dict[str, bytes], scratch: Path | None) -> int:
    """Read each point; with `scratch` in all ways. What comes must be right. Returns how often nothing came."""
    refused = 0
    for point_id, model in models.items():
        try:
            point = replica.find(point_id)
            refused += read_in_c(replica, point, model)
            if scratch is not None:
                refused += read_in_python(replica, point, model)
                recover(replica, point_id, scratch, force=True, files=FILES)
                assert scratch.read_bytes() == model, f"point {point_id} was recovered with wrong bytes"
        except BlockReplicaError:
            refused += 1
    return refused


def judge(store: Path, models: dict[str, bytes], scratch: Path | None) -> tuple[int, list[Damage] | None]:
    """How many reads were refused, and what verify found; None: all that it can't even begin with."""
    try:
        replica = open_replica(store, files=FILES)
        refused = read_points(replica, models, scratch)
        return refused, verify(replica, files=FILES).damage
    except BlockReplicaError:
        return 1, None


def unseen(flips: list[Flip], damage: list[Damage] | None) -> list[Flip]:
    """Those of which verify said nothing."""
    if damage is None or (len(flips) == 1 and damage):
        return []
    return [flip for flip in flips if not any(map(flip.is_in, damage)) and flip.path.name not in UNVERIFIED]


def hurts(flip: Flip, store: Path, models: dict[str, bytes]) -> bool:
    """Whether a flip that verify says nothing of keeps a point from being read."""
    with flipped([flip]):
        if not read_points(open_replica(store, files=FILES), models, None):
            return False
        return not judge(store, models, None)[1]


@pytest.mark.parametrize("make", [grown_old, interrupted])
def test_without_a_flip_all_is_well(tmp_path: Path, make: Make) -> None:
    models = make(tmp_path / "store", SEED)
    assert judge(tmp_path / "store", models, tmp_path / "scratch") == (0, [])


@pytest.mark.parametrize("make", [grown_old, interrupted])
def test_a_flipped_bit_is_never_served_and_is_found_by_verify(tmp_path: Path, make: Make) -> None:
    print("seed", SEED)
    store, scratch = tmp_path / "store", tmp_path / "scratch"
    models, missed, tried = make(store, SEED), [], 0
    for flips in rounds(store, random.Random(SEED)):
        thorough = any(flip.thorough for flip in flips)
        with flipped(flips):
            try:
                refused, damage = judge(store, models, scratch if thorough else None)
            except AssertionError as error:
                raise AssertionError(f"{', '.join(map(str, flips))}: {error}") from error
        assert not (refused and flips[0].path.name == "lock")
        left = unseen(flips, damage)
        missed += left if make is not interrupted else [flip for flip in left if hurts(flip, store, models)]
        tried += len(flips)
    assert not missed, "\n".join(map(str, missed[:40]))
    assert tried > 100 or PARTS > 1


def take_up(folder: Path) -> bool:
    """Finish the interrupted movement, as the next sync would; False for a typed error."""
    try:
        replica = open_replica(folder, files=FILES)
        with replica.locked(), closing(replica.session()) as session:
            session.start("delta", heal=False)
            put(session, next_writes(SEED))
            commit(session)
    except BlockReplicaError:
        return False
    return True


def put_back(store: Path, contents: dict[Path, bytes]) -> None:
    """Make the store what it was."""
    for path in store.rglob("*"):
        if path.is_file() and path not in contents:
            path.unlink()
    for path, content in contents.items():
        path.write_bytes(content)


def test_an_interrupted_movement_is_never_finished_on_top_of_a_flipped_bit(tmp_path: Path) -> None:
    """Of all flips those of every eighth byte of content, one bit each: each is a movement of its own."""
    print("seed", SEED)
    store, finished = tmp_path / "store", 0
    models = interrupted(store, SEED)
    last = written(models["1.2"], next_writes(SEED))
    contents = {path: path.read_bytes() for path in store.rglob("*") if path.is_file()}
    for flips in rounds(store, random.Random(SEED)):
        for flip in flips:
            if FLIPS == 0 and not (flip.thorough and (flip.at % 8 == SEED % 8 or flip.path.stat().st_size < 1000)):
                continue
            turn([flip])
            try:
                done = take_up(store)
                finished += done
                points = models | ({"1.3": last} if done else {})
                read_points(open_replica(store, files=FILES), points, tmp_path / "scratch")
            except BlockReplicaError:
                pass
            except AssertionError as error:
                raise AssertionError(f"{flip}: {error}") from error
            put_back(store, contents)
    assert finished > 20 or PARTS > 1
