"""Recovering a point to a file: sparse, checked against the point's checksums, whole or not there at all.

It is written beside its place under a name of our own. What an interrupted recovery left there needs no record: each
block of it that has the point's checksum is right, whoever wrote it, and only the others are written. Two more ways are
that one: a file system that shares blocks (`FICLONE`) gives the newest content at once, of which the blocks are written
that the point has otherwise; and an image that is there already is brought to the point in place.

What is compared is what the disk holds, not what memory does: after an fsync that failed the two differ, and no later
fsync tells. So a file that was there before is dropped from memory first.
"""

from __future__ import annotations

import os
import stat
from contextlib import ExitStack, suppress
from pathlib import Path

import msgspec

from .. import kernels
from ..ahead import Aside
from ..arrays import Bools, Bytes, load, np
from ..checksums import ENTRY_SIZE, PAGE_ENTRIES, block_count
from ..errors import (
    GOES_ON,
    BlockReplicaError,
    BusyError,
    DamageError,
    NoSpaceError,
    NotFoundError,
    RefusedError,
    StorageError,
    UsageError,
    translated,
)
from ..extents import Extent, windows
from ..files import FILES, File, Files
from ..progress import SILENT, Progress
from ..stores import PointReader, Replica
from ..stores.layout import store_around
from ..stores.point_reader import DAMAGED, LOST, TRUSTED
from .convert import PARTIAL, convert, require_still

WINDOW_BLOCKS = PAGE_ENTRIES * 8
READ_BYTES = 8 << 20
GRANULE = 4096
RIGHT, WRONG, UNKNOWN = 0, 1, 2


def recover(
    replica: Replica, point_id: str | None, to: Path, *, disk: int = 0, force: bool = False, unchecked: bool = False,
    part: Extent | None = None, in_place: bool = False, image_format: str = "raw", durable: bool = True,
    progress: Progress = SILENT, files: Files = FILES,
) -> str:  # fmt: skip
    """Write a disk of a point, or a `part` of it, to the file `to`; returns the point's id.

    It is written beside its place and renamed once it is durable; interrupted, the same call goes on where it was.
    With `in_place`, `to` is an image or a block device that is there, and only what differs is written: interrupted,
    it is a mixture. `image_format`: as of qemu-img. Not `durable`: as `cp` leaves it, whole for whoever reads it, and
    on the disk when the kernel has brought it there; a power cut before that leaves anything: not over a file that is
    there. BusyError when somebody writes what is there. DamageError when a block does not match the point's checksum,
    or has none that is known, unless `unchecked` accepts the latter.
    """
    if in_place + (part is not None) + (image_format != "raw") > 1:
        raise UsageError("a part of a disk, an image in place, another format: wanted one of them at most")
    point = replica.find(point_id)
    _require_place(to, files, force=force, in_place=in_place, durable=durable)
    if unchecked and part is not None:
        raise UsageError("a recovery of a part is always checked")
    with ExitStack() as held:
        if force and not in_place and to.exists():  # held until it is replaced: nobody may begin to write it
            _require_nobody_writes(held.enter_context(files.open(to)))
        if image_format != "raw":
            if unchecked:
                raise UsageError(f"a recovery to {image_format} is always checked")
            convert(replica, point.id, disk, image_format, to, progress, files, durable=durable, force=force)
            return point.id
        with replica.reader(point, disk) as reader:
            job = _Job(reader, unchecked, in_place, durable, force, progress)
            progress.start(f"recovering {point.id}", part.length if part else reader.size)
            if in_place:
                with files.open(to, write=True) as target:
                    _in_place(job, target)
            else:
                _beside(job, to, part, files)
        return point.id


class _Job(msgspec.Struct, frozen=True):
    reader: PointReader
    unchecked: bool
    in_place: bool
    durable: bool
    force: bool
    progress: Progress


def _require_place(to: Path, files: Files, *, force: bool, in_place: bool, durable: bool) -> None:
    if in_place and not to.exists():
        raise NotFoundError(f"{to}: is not there to be changed in place; leave --in-place out")
    if to.exists() and not force and not in_place:
        raise RefusedError(f"{to}: is there already; choose another file, or --force to replace it")
    if to.exists() and not durable:
        raise UsageError(f"{to}: is there already, and is let go of only for what is on the disk: leave --no-fsync out")
    if to.is_dir() or not to.parent.is_dir():
        raise RefusedError(f"{to}: wanted a file in a folder that exists")
    if to.exists() and not in_place and not to.is_file():
        raise RefusedError(f"{to}: is no regular file, and would become one; --in-place writes into a block device")
    if (store := store_around(to, files)) is not None:
        raise RefusedError(f"{to}: lies inside the replica store {store}; choose a place outside of it")


def _require_nobody_writes(image: File) -> None:
    """Whoever has it open would go on with a file that has no name any more, or write into the recovered one."""
    if not image.lock_image():
        raise BusyError(f"{image.path}: a tracker, a machine or another recovery has it open; end that first")


def _in_place(job: _Job, target: File) -> None:
    _require_nobody_writes(target)
    size = job.reader.size
    if stat.S_ISBLK(os.fstat(target.fileno()).st_mode):
        if target.size() < size:
            raise RefusedError(f"{target.path}: has {target.size()} bytes; the point has {size}")
    else:
        target.truncate(size)
    target.forget_cache()
    for window in windows(size, WINDOW_BLOCKS * job.reader.block_size):
        _mend_window(job, target, window)
        job.progress.advance(window.length)
    target.sync()


def _beside(job: _Job, to: Path, part: Extent | None, files: Files) -> None:
    partial = to.with_name(to.name + PARTIAL)
    with files.open(partial, write=True, create=True) as target:
        if not target.lock() or not files.is_at(target, partial):
            raise BusyError(f"{partial}: another recovery writes to it; wait for that, or choose another file")
        try:
            if part is not None:
                _write_part(job, target, part)
            else:
                _write_whole(job, target)
            if job.durable:
                target.sync()
                require_still(target, partial, to, files, force=job.force)
                _put_in_place(partial, to, files)
            else:
                require_still(target, partial, to, files, force=job.force)
                files.rename(partial, to)
        except BlockReplicaError as error:  # a full disk, too, is not kept full; being interrupted leaves it, to go on
            with suppress(BlockReplicaError):
                if files.is_at(target, partial):
                    files.unlink(partial)
            if isinstance(error, NoSpaceError):
                told = str(error).removesuffix(GOES_ON)
                raise NoSpaceError(f"{told}: what was written is removed, so it begins anew") from error
            raise


def _put_in_place(partial: Path, to: Path, files: Files) -> None:
    """Give the file its name, durably; where that can't be, the name goes again, unless it was another file's."""
    replaced = files.exists(to)
    files.rename(partial, to)
    try:
        files.sync_folder(to.parent)
    except BlockReplicaError:
        if not replaced:
            files.rename(to, partial)
        raise


def _write_whole(job: _Job, target: File) -> None:
    size = job.reader.size
    begun = target.size() > 0
    if begun:
        target.forget_cache()
    elif size > 0:
        begun = target.clone_from(job.reader.image)
    if not begun:
        Aside(load)  # beside the copying of the first window, whose checksums need it
    target.truncate(size)
    for window in windows(size, WINDOW_BLOCKS * job.reader.block_size):
        if begun:
            _mend_window(job, target, window)
        else:
            table = copy_window(job.reader, target, window, lazy=not job.durable)
            _require_right(job, target, window, table)
        job.progress.advance(window.length)


def _write_part(job: _Job, target: File, part: Extent) -> None:
    if part.end > job.reader.size:
        raise UsageError(f"offset {part.offset}, length {part.length}: the disk has {job.reader.size} bytes")
    target.truncate(0)
    target.truncate(part.length)
    for piece in windows(part.end, READ_BYTES, start=part.offset):
        content = bytearray(read_checked(job.reader, piece.offset, piece.length))
        _write_sparse(target, content, piece.offset - part.offset, fresh=True)
        job.progress.advance(piece.length)


def _mend_window(job: _Job, target: File, window: Extent) -> None:
    """Write what of a window `target` has otherwise than the point."""
    reader = job.reader
    data = target.next_data(window.offset)
    if (data is None or data >= window.end) and stat.S_ISREG(os.fstat(target.fileno()).st_mode):
        _require_right(job, target, window, copy_window(reader, target, window))
        return
    table = bytearray(block_count(window.length, reader.block_size) * ENTRY_SIZE)
    with translated(target.path, f"reading from offset {window.offset}"):
        kernels.checksum_file(target.fileno(), window.offset, window.length, reader.block_size, table, seed=reader.seed)
    wrong = places(reader, window, judge(reader, window, table) != RIGHT)
    runs = [clipped for each in wrong if (clipped := each.clip(window.offset, window.end))]
    _compose(reader, target, window, runs, table, fresh=False)
    _require_right(job, target, window, table)


def _require_right(job: _Job, target: File, window: Extent, table: bytearray) -> None:
    """DamageError when what was written does not have the point's checksums."""
    verdict = judge(job.reader, window, table)
    for found, what, hint in (
        (WRONG, "the replica's content does not match the point's checksums", "recover another one, and run verify"),
        (UNKNOWN, "the point's checksums are lost", "--unchecked recovers it without them"),
    ):
        bad = places(job.reader, window, verdict == found)
        if bad and not (job.unchecked and found == UNKNOWN):
            where = ", ".join(f"{place.offset} ({place.length} bytes)" for place in bad[:3])
            left = "what is there is a mixture now" if job.in_place else "nothing was written"
            raise DamageError(f"{target.path}: {what} at offset {where}; {left}; {hint}")


def read_checked(reader: PointReader, offset: int, length: int) -> bytes:
    """`length` bytes of the point, which lie within it, from whole blocks that match their checksums."""
    extent = Extent(offset, length).aligned(reader.block_size, reader.size)
    content, table = bytearray(extent.length), bytearray(block_count(extent.length, reader.block_size) * ENTRY_SIZE)
    reader.pread_into(content, extent.offset)
    kernels.checksum_buffer(content, reader.block_size, table, seed=reader.seed)
    bad = places(reader, extent, judge(reader, extent, table) != RIGHT)
    if bad:
        raise DamageError(f"offset {bad[0].offset}, length {bad[0].length}: the replica's content does not match the "
                          "point's checksums, or they are lost; run verify")  # fmt: skip
    return bytes(content[offset - extent.offset :][:length])


def copy_window(reader: PointReader, target: File, window: Extent, *, lazy: bool = False) -> bytearray:
    """Write one window of the point to `target` (which holds nothing there) and return its checksums.

    What no undo log names is copied from the newest content; the rest is put together in memory. A sync may overwrite
    more of it meanwhile: what is named only after the copy is done again.
    """
    block_size = reader.block_size
    table = bytearray(block_count(window.length, block_size) * ENTRY_SIZE)
    named = _blocks_of(reader.undone(window), window, block_size)
    try:
        for run in _between(named, window):
            data = reader.image.next_data(run.offset)
            if data is None or data >= run.end:
                continue  # a hole, whose checksums are zeros
            at = (run.offset - window.offset) // block_size * ENTRY_SIZE
            entries = memoryview(table)[at : at + block_count(run.length, block_size) * ENTRY_SIZE]
            target.copy_from(
                reader.image, run.offset, run.length, block_size, entries, seed=reader.seed, punch=False, lazy=lazy
            )
    except StorageError:  # the newest disk is smaller than the point: what is missing stands in the undo logs
        _compose(reader, target, window, [window], table, fresh=False)
        return table
    _compose(reader, target, window, named, table, fresh=True)
    late = _blocks_of(reader.undone(window), window, block_size)
    if late != named:
        _compose(reader, target, window, late, table, fresh=False)
    return table


def _compose(
    reader: PointReader, target: File, window: Extent, runs: list[Extent], table: bytearray, *, fresh: bool
) -> None:
    """Write blocks of the point, and their checksums into `table`. `fresh`: `target` has nothing but holes there."""
    for run in runs:
        for piece in windows(run.end, max(READ_BYTES, reader.block_size), start=run.offset):
            content = bytearray(piece.length)
            reader.pread_into(content, piece.offset)
            _write_sparse(target, content, piece.offset, fresh=fresh)
            at = (piece.offset - window.offset) // reader.block_size * ENTRY_SIZE
            entries = memoryview(table)[at : at + block_count(piece.length, reader.block_size) * ENTRY_SIZE]
            kernels.checksum_buffer(content, reader.block_size, entries, seed=reader.seed)


def _write_sparse(target: File, content: bytearray, offset: int, *, fresh: bool) -> None:
    """Write `content`, granules of zeros as holes."""
    count, view = -(-len(content) // GRANULE), memoryview(content)
    zeros = bytearray(count // 8 + 1)
    kernels.find_zeros(content, GRANULE, zeros)
    at = 0
    while at < count:
        run = kernels.bitmap_next(zeros, at, count) or (count, 0)
        if run[0] > at:
            target.pwrite(view[at * GRANULE : run[0] * GRANULE], offset + at * GRANULE)
        start, at = run[0] * GRANULE, run[0] + run[1]
        if run[1] and not fresh:
            target.zero(offset + start, min(run[1] * GRANULE, len(content) - start))


def judge(reader: PointReader, window: Extent, table: bytearray) -> Bytes:
    """For each block of a window whether `table`, computed from its content, has the point's checksum: RIGHT, WRONG,
    or UNKNOWN, where the replica has lost the one that the block had."""
    first = window.offset // reader.block_size
    wanted, trust = reader.checksums(first, len(table) // ENTRY_SIZE)
    same = np.frombuffer(wanted, "V16") == np.frombuffer(table, "V16")
    verdict = np.where(same & (trust != LOST), RIGHT, np.where(trust == TRUSTED, WRONG, UNKNOWN)).astype(np.uint8)
    doubtful = np.flatnonzero((verdict == UNKNOWN) & (trust == DAMAGED))
    for page in np.unique((doubtful + first) // PAGE_ENTRIES).tolist():
        mine = doubtful[(doubtful + first) // PAGE_ENTRIES == page]
        computed = {int(at) + first: bytes(table[at * ENTRY_SIZE : (at + 1) * ENTRY_SIZE]) for at in mine}
        if reader.proves(page, computed):
            verdict[mine] = RIGHT
    return verdict


def places(reader: PointReader, window: Extent, which: Bools) -> list[Extent]:
    """The extents of these blocks of a window."""
    return [
        Extent(int(block) * reader.block_size + window.offset, reader.block_size) for block in np.flatnonzero(which)
    ]


def _between(runs: list[Extent], window: Extent) -> list[Extent]:
    """What of a window no run covers."""
    edges = [window.offset, *(edge for run in runs for edge in (run.offset, run.end)), window.end]
    return [Extent(low, high - low) for low, high in zip(edges[::2], edges[1::2], strict=True) if low < high]


def _blocks_of(extents: list[Extent], window: Extent, block_size: int) -> list[Extent]:
    if not extents:
        return []
    blocks = np.zeros(block_count(window.length, block_size), np.bool_)
    for extent in extents:
        low = (extent.offset - window.offset) // block_size
        blocks[low : -(-(extent.end - window.offset) // block_size)] = True
    edges = np.flatnonzero(np.diff(blocks.astype(np.int8), prepend=0, append=0)).reshape(-1, 2)
    return [Extent(window.offset + low, min(high, window.length) - low) for low, high in (edges * block_size).tolist()]
