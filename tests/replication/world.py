"""A primary, its replicas and a model, for tests: what each recovery point must hold is plain bytes."""

from __future__ import annotations

import os
import random
from dataclasses import dataclass, field
from pathlib import Path

from msgspec.structs import replace

from blockreplica import protection, track
from blockreplica.errors import BlockReplicaError
from blockreplica.manifest import PointRecord
from blockreplica.progress import SILENT, Progress
from blockreplica.protection import Relationship
from blockreplica.replication import SyncResult
from blockreplica.stores import DirectoryStore
from blockreplica.tracking import LogMode
from blockreplica.tracking.names import Names

KIB, MIB = 1 << 10, 1 << 20
BLOCK = 8192


def make_image(path: Path, size: int, seed: int) -> Path:
    """A sparse image: a third noise, a third zeros that are written, a third holes, in runs of some granules."""
    rng = random.Random(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        at = 0
        while at < size:
            length = min(rng.choice([512, 4096, 12288, 70_000]), size - at)
            kind = rng.choice("dzh")
            if kind != "h":
                file.seek(at)
                file.write(rng.randbytes(length) if kind == "d" else bytes(length))
            at += length
        file.truncate(size)
    return path


def foreign_write(path: Path, offset: int, data: bytes) -> None:
    """Write to an image behind its tracker's back."""
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def write(path: Path, *writes: tuple[int, bytes]) -> None:
    """Write through a tracker that is opened for it and closed again."""
    with track(path) as image:
        for offset, data in writes:
            image.pwrite(data, offset)


def artifacts(path: Path) -> list[str]:
    """The sealed logs and dirty bitmaps beside an image, as `000001.hrl`."""
    return sorted(
        name.removeprefix(path.name + ".")
        for name in os.listdir(path.parent)
        if name.startswith(path.name + ".0") and name.endswith((".hrl", ".dirty"))
    )


def flip(path: Path, at: int, bit: int = 0) -> None:
    """Flip one bit; `at` below zero counts from the end."""
    raw = bytearray(path.read_bytes())
    raw[at] ^= 1 << bit
    os.truncate(path, len(raw))
    with path.open("r+b") as file:
        file.write(raw)


class Interrupting(Progress):
    """Ctrl-C after so many calls of `advance`."""

    def __init__(self, after: int) -> None:
        self.left = after

    def advance(self, count: int) -> None:
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt


@dataclass(slots=True)
class World:
    """Images replicated into a store, and what every point must hold."""

    folder: Path
    images: list[Path]
    name: str = "vm"
    keep: int = 24
    block_size: int = BLOCK
    models: dict[str, tuple[bytes, ...]] = field(default_factory=dict)
    held: Relationship | None = None
    log: LogMode = "always"

    @classmethod
    def make(
        cls, folder: Path, *, sizes: tuple[int, ...] = (40 * BLOCK + 5000,), seed: int = 1, **more: object
    ) -> World:
        """New images, not protected yet."""
        print("seed", seed)
        images = [make_image(folder / f"vm{at}.img", size, seed + at) for at, size in enumerate(sizes)]
        return cls(folder, images, **more)  # type: ignore[arg-type]

    @property
    def image(self) -> Path:
        """Disk 0."""
        return self.images[0]

    @property
    def store(self) -> Path:
        """The store's folder."""
        return self.folder / f"store-{self.name}"

    @property
    def vm(self) -> Relationship:
        """The relationship."""
        assert self.held is not None
        return self.held

    def disk(self, index: int = 0) -> Path:
        """The folder of a disk of the replica."""
        return self.store / self.name / f"disk{index}"

    def names(self, index: int = 0) -> Names:
        """The tracker's files of a disk."""
        return Names.of(self.images[index])

    def begin(self, *, seed: Path | None = None) -> Relationship:
        """The relationship and its empty replica, without the first replication."""
        definition = protection.define(self.images, self.store, name=self.name, keep=self.keep, seed=seed, log=self.log)
        DirectoryStore.create(definition.store).create_replica(protection.new_replica(definition, self.block_size))
        self.held = Relationship(definition)
        return self.held

    def protect(self, *, progress: Progress = SILENT, seed: Path | None = None) -> SyncResult:
        """Begin and replicate for the first time."""
        if self.held is None:
            self.begin(seed=seed)
        return self.sync(progress=progress)

    def sync(self, *, progress: Progress = SILENT) -> SyncResult:
        """Sync while nobody writes, and keep what the point must hold."""
        return self.note(self.vm.sync(progress=progress))

    def resync(self, *, deep: bool = False, block_size: int | None = None, progress: Progress = SILENT) -> SyncResult:
        """Resync while nobody writes, and keep what the point must hold."""
        return self.note(self.vm.resync(deep=deep, block_size=block_size, progress=progress))

    def note(self, result: SyncResult) -> SyncResult:
        """A point was made of what the images hold now."""
        assert result.bytes_dirty == result.bytes_skipped + result.bytes_sent
        assert result.bytes_sent >= 0
        assert result.bytes_skipped >= 0
        assert result.reason
        self.models[result.point] = tuple(path.read_bytes() for path in self.images)
        return result

    def keep_only(self, keep: int) -> None:
        """Change how many points are kept."""
        self.keep = keep
        self.held = Relationship(replace(self.vm.definition, keep=keep))

    def read(self, point: PointRecord, disk: int = 0) -> bytes:
        """A point through the overlay."""
        return self.vm.replica.read(point, 0, point.disks[disk].size, disk=disk)

    def recovered(self, point: str | None, disk: int = 0) -> bytes:
        """A point recovered to a file, which is then read."""
        target = self.folder / "recovered.img"
        self.vm.replica.recover(point, target, disk=disk, force=True)
        return target.read_bytes()

    def check(self, *, recover: bool = True) -> list[PointRecord]:
        """Every listed point equals its model, also recovered; the replica has no damage."""
        points = self.vm.points()
        assert len(points) == min(self.keep, len(self.models)), [point.id for point in points]
        for point in points:
            for disk, wanted in enumerate(self.models[point.id]):
                assert point.disks[disk].size == len(wanted), f"size of point {point.id}, disk {disk}"
                assert self.read(point, disk) == wanted, f"point {point.id}, disk {disk} differs from its model"
                if recover:
                    assert self.recovered(point.id, disk) == wanted, f"point {point.id} recovered, disk {disk}"
        if recover:
            assert self.vm.verify().damage == []
        if not self.vm.replica.base.incomplete and points:
            for disk, wanted in enumerate(self.models[points[-1].id]):
                assert (self.disk(disk) / "disk.img").read_bytes() == wanted, "disk.img is not the newest point"
        return points


def fails(call: object, *arguments: object, **named: object) -> BlockReplicaError:
    """The typed error of a call that must fail."""
    try:
        call(*arguments, **named)  # type: ignore[operator]
    except BlockReplicaError as error:
        return error
    raise AssertionError("no error")
