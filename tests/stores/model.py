"""A replica and a model of it, for tests: what each point must hold is a plain `bytes`."""

from __future__ import annotations

import random
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from blockreplica import kernels
from blockreplica.checksums import ENTRY_SIZE, block_count
from blockreplica.errors import NotFoundError
from blockreplica.extents import Extent
from blockreplica.files import FILES, Files
from blockreplica.manifest import PointDisk, PointRecord, ReplicaDisk, ReplicaRecord, point_id
from blockreplica.stores import DirectoryStore, PointReader, Replica, Session
from blockreplica.stores.blend import EXTENT
from blockreplica.stores.point_reader import TRUSTED

RECORD = ReplicaRecord(
    relationship="00000000-0000-0000-0000-00000000000a", name="vm", block_size=16384, seed=7, created=0.0,
    disks=[ReplicaDisk(index=0, name="vm.img")],
)  # fmt: skip


def new_replica(folder: Path, *, record: ReplicaRecord = RECORD, files: Files = FILES) -> Replica:
    """An empty replica in a new store."""
    return DirectoryStore.create(folder, files=files).create_replica(record)


def open_replica(folder: Path, *, files: Files = FILES) -> Replica:
    """The replica of `new_replica`, opened again."""
    return DirectoryStore(folder, files=files).replica("vm")


def changed(
    rng: random.Random, content: bytes, *, writes: int = 6, most: int = 20000
) -> tuple[bytes, list[tuple[int, bytes]]]:
    """Some writes (zeros among them) that do not overlap, and the content after them."""
    model, spans = bytearray(content), []
    for _ in range(writes):
        offset = rng.randrange(len(content))
        length = min(rng.randint(1, most), len(content) - offset)
        data = bytes(length) if rng.random() < 0.3 else rng.randbytes(length)
        if all(offset + length <= start or offset >= start + len(held) for start, held in spans):
            spans.append((offset, data))
            model[offset : offset + length] = data
    return bytes(model), sorted(spans)


def put(session: Session, writes: list[tuple[int, bytes]], *, disk: int = 0) -> int:
    """Write them through a session; zeros as zero extents."""
    sent, plain = 0, [(offset, data) for offset, data in writes if any(data)]
    for offset, data in writes:
        if not any(data):
            sent += session.disks[disk].zero(Extent(offset, len(data)))
    buffer, rows = bytearray(), []
    for offset, data in plain:
        rows.append((offset, len(data), len(buffer)))
        buffer += data
    return sent + session.disks[disk].write(np.array(rows, EXTENT), memoryview(buffer))


def commit(session: Session) -> PointRecord:
    """Commit with a made-up point."""
    disks = [PointDisk(index=index, name="vm.img", size=disk.image.size()) for index, disk in enumerate(session.disks)]
    return session.commit(
        PointRecord(
            id=point_id(1, session.epoch), generation=1, epoch=session.epoch, time=1000.0 + session.epoch,
            kind="crash-consistent", action="delta", reason="test", disks=disks,
        )
    )  # fmt: skip


def move(replica: Replica, size: int, writes: list[tuple[int, bytes]], *, movement: str = "delta") -> PointRecord:
    """One whole movement: resize, write, commit."""
    with replica.locked():
        session = replica.session()
        try:
            session.start(movement, heal=False)
            session.disks[0].resize(size)
            put(session, writes)
            return commit(session)
        finally:
            session.close()


def content(replica: Replica, point: PointRecord, disk: int = 0) -> bytes:
    """All of a point, read through the overlay."""
    with replica.reader(point, disk) as reader:
        buffer = bytearray(reader.size)
        reader.pread_into(buffer, 0)
        return bytes(buffer)


def table_is_true(replica: Replica, point: PointRecord, disk: int = 0) -> bool:
    """Whether the point's checksums, where known, are those of its content."""
    with replica.reader(point, disk) as reader:
        data = bytearray(reader.size)
        reader.pread_into(data, 0)
        return _true(reader, data)


def _true(reader: PointReader, data: bytearray) -> bool:
    blocks = block_count(len(data), reader.block_size)
    table = bytearray(ENTRY_SIZE * blocks)
    if not blocks:
        return True
    kernels.checksum_buffer(data, reader.block_size, table, seed=reader.seed)
    entries, known = reader.checksums(0, blocks)
    same = np.frombuffer(entries, "V16") == np.frombuffer(table, "V16")
    return bool(same[known == TRUSTED].all())


def points_equal(replica: Replica, models: dict[int, bytes], *, required: Iterable[int]) -> None:
    """Every point that the replica lists equals its model, and the `required` epochs are among them."""
    points = {point.epoch: point for point in replica.points()}
    missing = set(required) - set(points)
    if missing:
        raise NotFoundError(f"points {sorted(missing)} are gone")
    for epoch, point in points.items():
        with replica.reader(point, 0) as reader:
            data = bytearray(reader.size)
            reader.pread_into(data, 0)
            assert data == models[epoch], f"point {epoch} differs from its model"
            assert _true(reader, data), f"checksums of point {epoch} are not those of its content"
