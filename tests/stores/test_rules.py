"""Rules of the store as orders of events, each named in its test; those of a reader (15), of merged and resumed logs
(16), of memory (18) and of retention (21) are played where their parts are tested."""

from __future__ import annotations

import random
from contextlib import closing
from pathlib import Path

import msgspec

from blockreplica.checksums import ENTRY_SIZE
from blockreplica.files import FILES
from blockreplica.manifest import Attachment, PointRecord, decode, encode
from blockreplica.stores import Replica
from blockreplica.stores.undo_index import DATA, KNOWN, UndoIndex
from stores.model import RECORD, commit, content, move, new_replica, open_replica, put

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
        point = move(replica, 4000 * BLOCK, [(0, b"the same" * (BLOCK // 8))])
        with replica.reader(point, 0) as reader:
            entries, _ = reader.checksums(0, 4000)
        assert any(entries[:ENTRY_SIZE])
        assert not any(entries[ENTRY_SIZE:])
        tables.append(entries[:ENTRY_SIZE])
        table = (folder / "vm/disk0/checksums").stat()
        assert table.st_blocks * 512 <= table.st_size // 4
    assert tables[0] != tables[1]


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


def test_rule_20_a_points_record_may_name_attachments(tmp_path: Path) -> None:
    replica = new_replica(tmp_path / "store")
    point = move(replica, SIZE, [(0, b"x")])
    assert point.attachments == []
    named = msgspec.structs.replace(point, attachments=[Attachment(name="nvram", size=3, sha256="ab" * 32)])
    assert decode("point", PointRecord, encode("point", named), Path("points/000001")) == named
