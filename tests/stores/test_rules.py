"""Rules of the store as orders of events, each named in its test; those of a reader (15), of merged and resumed logs
(16), of memory (18) and of retention (21) are played where their parts are tested."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from blockreplica import protection
from blockreplica.checksums import ENTRY_SIZE
from blockreplica.extents import Extent
from blockreplica.files import FILES, File, Files
from blockreplica.manifest import Attachment, PointDisk, PointRecord, chained, decode, encode
from blockreplica.stores import Replica, point_reader
from blockreplica.stores.disk import DiskWriter
from blockreplica.stores.point_reader import TRUSTED
from blockreplica.stores.undo_index import DATA, KNOWN, UndoIndex
from stores.model import RECORD, commit, content, move, new_replica, open_replica, put, table_is_true

BLOCK = RECORD.block_size
SIZE = 8 * BLOCK
Writes = list[tuple[int, bytes]]


def dies(replica: Replica, writes: Writes) -> None:
    """A movement that ends before its commit."""
    with replica.locked(), closing(replica.session()) as session:
        session.start("delta", heal=False)
        put(session, writes)
        session.disks[0].flush()


def test_rule_13_a_block_that_a_crash_put_back_without_its_checksum_is_sent_again(tmp_path: Path) -> None:
    """The table was written, the block was lost, and the retry must not take it for being there."""
    rng, replica = random.Random(1), new_replica(tmp_path / "store")
    old, new = rng.randbytes(SIZE), rng.randbytes(BLOCK)
    move(replica, SIZE, [(0, old)])
    dies(replica, [(BLOCK, new)])
    with (tmp_path / "store/vm/disk0/disk.img").open("r+b") as image:  # what the power cut left of the two
        image.seek(BLOCK)
        image.write(old[BLOCK : 2 * BLOCK])
    again = open_replica(tmp_path / "store")
    assert content(again, again.find("1.1")) == old
    with again.locked(), closing(again.session()) as session:
        session.start("delta", heal=False)
        put(session, [(BLOCK, new)])
        point = commit(session)
    assert content(again, point) == old[:BLOCK] + new + old[2 * BLOCK :]
    assert content(again, again.find("1.1")) == old


def test_rule_14_checksums_have_a_seed_of_their_replica_and_zeros_take_no_room(tmp_path: Path) -> None:
    tables = []
    for seed in (7, 8):
        folder = tmp_path / str(seed)
        replica = new_replica(folder, record=msgspec.structs.replace(RECORD, seed=seed))
        same = b"the same" * (BLOCK // 8)
        move(replica, 4000 * BLOCK, [(at * BLOCK, same) for at in (0, 2000)])
        point = move(replica, 4000 * BLOCK, [(2000 * BLOCK, bytes(BLOCK))])  # written over by zeros
        with replica.reader(point, 0) as reader:
            entries, _ = reader.checksums(0, 4000)
        assert any(entries[:ENTRY_SIZE])
        assert not any(entries[ENTRY_SIZE:])
        tables.append(entries[:ENTRY_SIZE])
        table = (folder / "vm/disk0/checksums").stat()
        assert table.st_blocks * 512 <= table.st_size // 4
    assert tables[0] != tables[1]


def test_rule_14_the_seed_of_a_replica_is_its_own_and_not_to_be_guessed(tmp_path: Path) -> None:
    """A guest that knew it could make blocks of equal checksums: they would not be sent."""
    definition = protection.define([tmp_path / "vm.img"], tmp_path / "store", name="vm")
    seeds = {protection.new_replica(definition, BLOCK).seed for _ in range(8)}
    assert len(seeds) == 8
    assert max(seeds) >> 56, "wanted all of 64 bits"


def test_rule_17_a_small_write_saves_one_granule_and_the_checksum_of_its_block(tmp_path: Path) -> None:
    rng, replica = random.Random(2), new_replica(tmp_path / "store")
    point = move(replica, SIZE, [(0, rng.randbytes(SIZE))])
    with replica.reader(point, 0) as reader:
        before = bytes(reader.checksums(2, 1)[0])
    move(replica, SIZE, [(2 * BLOCK + 5000, b"small")])
    with closing(UndoIndex(replica.layout.disk(0).undo_index(2), files=FILES)) as index:
        extents, sums = index.extents(0, SIZE), index.checksums(0, SIZE // BLOCK)
    assert extents[["offset", "length", "kind"]].tolist() == [(2 * BLOCK + 4096, 4096, DATA)]
    assert [(int(row["block"]), bytes(row["checksum"]), int(row["kind"])) for row in sums] == [(2, before, KNOWN)]


def test_rule_17_any_point_can_be_verified_and_the_index_of_each_log_is_sorted(tmp_path: Path) -> None:
    """Blocks are touched from the last to the first, some in every epoch, some in one alone."""
    rng, replica = random.Random(4), new_replica(tmp_path / "store")
    model = rng.randbytes(SIZE)
    move(replica, SIZE, [(0, model)])
    models = {1: model}
    for epoch in range(2, 8):
        with replica.locked(), closing(replica.session()) as session:
            session.start("delta", heal=False)
            for block in (7, epoch, 0):
                data, at = rng.randbytes(5000), block * BLOCK
                put(session, [(at, data)])
                session.disks[0].flush()
                model = model[:at] + data + model[at + len(data) :]
            models[commit(session).epoch] = model
        with closing(UndoIndex(replica.layout.disk(0).undo_index(epoch), files=FILES)) as index:
            rows = index.all_rows()
        for kinds in (rows["kind"] < KNOWN, rows["kind"] >= KNOWN):
            assert rows["offset"][kinds].tolist() == sorted(rows["offset"][kinds].tolist())
    for point in replica.points():
        assert content(replica, point) == models[point.epoch]
        assert table_is_true(replica, point)
        with replica.reader(point, 0) as reader:
            assert (reader.checksums(0, 8)[1] == TRUSTED).all()


def test_rule_17_however_many_logs_a_point_lies_behind_a_reader_holds_few_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A point far back has more logs than a process may have files."""
    monkeypatch.setattr(point_reader, "_OPEN_LOGS", 4)
    rng, replica = random.Random(5), new_replica(tmp_path / "store")
    first = rng.randbytes(30 * 4096)
    point = move(replica, len(first), [(0, first)])
    for epoch in range(30):
        move(replica, len(first), [(epoch * 4096, rng.randbytes(4096))])
    before = len(os.listdir("/proc/self/fd"))
    with replica.reader(point, 0) as reader:
        buffer = bytearray(len(first))
        reader.pread_into(buffer, 0)
        assert buffer == first
        assert len(os.listdir("/proc/self/fd")) - before <= 4 + 4


def test_rule_19_disk_img_may_be_copied_unless_incomplete_stands_beside_it(tmp_path: Path) -> None:
    rng, replica = random.Random(3), new_replica(tmp_path / "store")
    image, mark = tmp_path / "store/vm/disk0/disk.img", tmp_path / "store/vm/INCOMPLETE"
    first, data = rng.randbytes(SIZE), rng.randbytes(BLOCK)
    move(replica, SIZE, [(0, first)])
    assert image.read_bytes() == first
    assert not mark.exists()
    dies(replica, [(0, data)])
    assert image.read_bytes() != first
    assert mark.exists()
    assert open_replica(tmp_path / "store").incomplete
    move(open_replica(tmp_path / "store"), SIZE, [(0, data)])
    assert image.read_bytes() == data + first[BLOCK:]
    assert not mark.exists()


class Marked(Files):
    """Says where `disk.img` is changed while INCOMPLETE does not stand beside it."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark
        self.unmarked: list[str] = []

    class _Image(File):
        __slots__ = ("look",)
        look: Callable[[str], None]

        def write_extents(self, extents: Any, buffer: Any) -> None:
            if len(extents):
                self.look("write")
            super().write_extents(extents, buffer)

        def zero(self, offset: int, length: int) -> None:
            self.look("zero")
            super().zero(offset, length)

        def truncate(self, size: int) -> None:
            self.look("truncate")
            super().truncate(size)

        def copy_from(self, *args: Any, **rest: Any) -> int:
            self.look("copy")
            return super().copy_from(*args, **rest)

    def open(self, path: Path, *, write: bool = False, create: bool = False, exclusive: bool = False) -> File:
        plain = super().open(path, write=write, create=create, exclusive=exclusive)
        if path.name != "disk.img":
            return plain
        with plain:
            image = self._Image(path, os.dup(plain.fileno()))
        image.look = lambda what: None if self.mark.exists() else self.unmarked.append(what)
        return image


def copies(disk: DiskWriter, source: Path) -> None:
    """As the first of all movements does."""
    with FILES.open(source) as file:
        disk.copy(file, Extent(0, SIZE))


FIRST_CHANGES: dict[str, tuple[bool, Callable[[DiskWriter, Path], object]]] = {
    "a first copy": (True, copies),
    "a first size": (True, lambda disk, _: disk.resize(SIZE)),
    "what stood there is thrown away": (True, lambda disk, _: disk.reset()),
    "a larger size": (False, lambda disk, _: disk.resize(2 * SIZE)),
    "a smaller size": (False, lambda disk, _: disk.resize(5000)),
    "zeros": (False, lambda disk, _: disk.zero(Extent(BLOCK, BLOCK))),
}


@pytest.mark.parametrize("name", FIRST_CHANGES)
def test_rule_19_whatever_changes_disk_img_leaves_the_mark_first(tmp_path: Path, name: str) -> None:
    """Whichever change a movement begins with: interrupted there, nobody may take `disk.img` for a point."""
    first, change = FIRST_CHANGES[name]
    source, image = tmp_path / "source", tmp_path / "store/vm/disk0/disk.img"
    source.write_bytes(random.Random(6).randbytes(SIZE))
    files = Marked(tmp_path / "store/vm/INCOMPLETE")
    replica = new_replica(tmp_path / "store", files=files)
    if not first:
        move(replica, SIZE, [(0, source.read_bytes())])
    elif change is not copies and "size" not in name:
        image.parent.mkdir(parents=True)
        image.write_bytes(b"what stood there")
    with replica.locked(), closing(replica.session()) as session:
        session.start("initial" if first else "delta", heal=False)
        before = image.read_bytes()
        change(session.disks[0], source)
        session.disks[0].flush()
    assert image.read_bytes() != before, "nothing was changed"
    assert files.unmarked == []
    assert open_replica(tmp_path / "store").incomplete


def test_rule_20_attachments_of_a_point_are_kept_and_bound_by_its_chain(tmp_path: Path) -> None:
    replica, attached = new_replica(tmp_path / "store"), [Attachment(name="nvram", size=3, sha256="ab" * 32)]
    before = move(replica, SIZE, [(0, b"x")])
    with ExitStack() as stack:
        stack.enter_context(replica.locked())
        session = stack.enter_context(closing(replica.session()))
        session.start("delta", heal=False)
        disks = [PointDisk(index=0, name="vm.img", size=SIZE)]
        made = msgspec.structs.replace(before, id="1.2", epoch=2, disks=disks, attachments=attached)
        session.commit(made)
    kept = open_replica(tmp_path / "store").find("1.2")
    assert kept.attachments == attached
    assert chained(before.chain, kept) == kept.chain
    assert chained(before.chain, msgspec.structs.replace(kept, attachments=[])) != kept.chain


def test_rule_20_a_points_record_may_name_attachments(tmp_path: Path) -> None:
    replica = new_replica(tmp_path / "store")
    point = move(replica, SIZE, [(0, b"x")])
    assert point.attachments == []
    named = msgspec.structs.replace(point, attachments=[Attachment(name="nvram", size=3, sha256="ab" * 32)])
    assert decode("point", PointRecord, encode("point", named), Path("points/000001")) == named
