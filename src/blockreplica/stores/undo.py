"""The undo log of one epoch on one disk: before-images, and an index that is published before anything is overwritten.

What must hold: when a granule of `disk.img` is overwritten, its before-image and its block's old checksum are durable
in log and index (rule 13), visible to readers (rule 15), and the only ones of that epoch (rule 16). What a crash may
leave: a log without its end, rows of the index missing or torn; `resume` brings both into agreement.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import UUID, uuid4

from ..arrays import Array, Bools, np
from ..checksums import ENTRY_SIZE
from ..errors import DamageError, FormatError, NotFoundError
from ..files import File, Files
from ..hrl import ENTRY, LogReader, LogWriter
from . import undo_index
from .blend import granule_rows, picked
from .layout import GRANULE, DiskLayout
from .seen import SeenSet
from .undo_index import CHECKSUM, DATA, HEADER, KNOWN, ROW, UNKNOWN, ZEROS

UNDO_FILE_TYPE = 1
AGAIN_BYTES = 4 << 20


class UndoWriter:
    """Gathers before-images; `publish` makes them durable and visible."""

    def __init__(self, layout: DiskLayout, epoch: int, block_size: int, *, era: int, files: Files) -> None:
        self._layout, self._epoch, self._files = layout, epoch, files
        self._era, self._granules_a_block = era, block_size // GRANULE
        self._waiting: list[Array] = []
        self._resumed: Array = np.zeros(0, ROW)
        if files.exists(layout.undo_index(epoch)) or files.exists(layout.undo_log(epoch)):
            self._resume()
        else:
            self._create(uuid4())
        self._granules = SeenSet(layout.seen(epoch), files=files)
        self._blocks = SeenSet(layout.seen(epoch).with_suffix(".touched"), files=files)
        self._remember(self._resumed)

    def save(
        self, granules: Array, old: Array, zero: Bools, blocks: Array, checksums: Array,
        known: Bools,
    ) -> None:  # fmt: skip
        """Keep the `old` content of ascending `granules`, `zero` or not, and the (n, 16) `checksums` of `blocks`."""
        fresh, fresh_blocks = self._granules.add(granules), self._blocks.add(blocks)
        granules, old, zero = granules[fresh], picked(old, fresh), zero[fresh]
        blocks, checksums, known = blocks[fresh_blocks], checksums[fresh_blocks], known[fresh_blocks]
        self._save_data(granules[~zero], picked(old, ~zero))
        self._save_zeros(granules[zero])
        rows = np.zeros(len(blocks), CHECKSUM)
        rows["block"] = blocks
        rows["checksum"] = np.ascontiguousarray(checksums).view(f"V{ENTRY_SIZE}").reshape(-1)
        rows["kind"] = np.where(known, KNOWN, UNKNOWN)
        self._waiting.append(rows.view(ROW))

    def publish(self) -> None:
        """Durable in the log, then durable and visible in the index."""
        self.publishing()()

    def publishing(self) -> Callable[[], None]:
        """What publishes all that was saved so far. It may be called in another thread while more is saved, before the
        next of its kind is asked for."""
        rows = np.concatenate([np.zeros(0, ROW), *self._waiting])
        self._waiting.clear()
        if not len(rows):
            return lambda: None
        self._log.flush()
        sealed, at = undo_index.sealed_rows(rows, self._key).tobytes(), HEADER.size + 32 * self.rows
        self.rows += len(rows)

        def publish() -> None:
            self._log.sync_flushed()
            self._index.pwrite(sealed, at)
            self._index.sync()

        return publish

    def touched(self) -> Array:
        """The blocks that earlier, interrupted sessions may have overwritten."""
        rows = self._resumed
        checksums = rows[rows["kind"] >= KNOWN]["offset"].astype(np.int64)
        extents = rows[rows["kind"] <= ZEROS]
        each = self._granules_a_block * GRANULE
        ranges = [
            np.arange(offset // each, (offset + length - 1) // each + 1)
            for offset, length in extents[["offset", "length"]].tolist()
        ]
        return np.unique(np.concatenate([checksums, *ranges]))

    def overwritten(self) -> Iterator[Array]:
        """The granules that earlier, interrupted sessions may have overwritten, ascending, in batches."""
        extents = np.sort(self._resumed[self._resumed["kind"] <= ZEROS], order="offset")
        for offset, length in extents[["offset", "length"]].tolist():
            for start in range(offset, offset + length, AGAIN_BYTES):
                stop = min(start + AGAIN_BYTES, offset + length)
                yield np.arange(start // GRANULE, -(-stop // GRANULE), dtype=np.int64)

    def restore(self, block: int, content: bytearray) -> bytes | None:
        """Lay what earlier sessions saved of a block over its `content`; returns the checksum that it had, if known."""
        start = block * self._granules_a_block * GRANULE
        rows = self._resumed[self._resumed["kind"] <= ZEROS]
        rows = rows[(rows["offset"] < start + len(content)) & (rows["offset"] + rows["length"] > start)]
        with self._files.open(self._layout.undo_log(self._epoch)) as log:
            for offset, source, length, kind in rows[["offset", "log_offset", "length", "kind"]].tolist():
                low, high = max(offset, start), min(offset + length, start + len(content))
                piece = bytes(high - low) if kind == ZEROS else log.pread(high - low, source + low - offset)
                content[low - start : high - start] = piece
        sums = self._resumed[(self._resumed["kind"] == KNOWN) & (self._resumed["offset"] == block)].view(CHECKSUM)
        return bytes(sums["checksum"][0]) if len(sums) else None

    def finish(self) -> None:
        """Seal the log and put the sorted index in the place of the growing one."""
        self.publish()
        self._log.close()
        raw = self._index.pread(32 * self.rows, HEADER.size)
        data = undo_index.sorted_file(self._log_id, np.frombuffer(raw, ROW), era=self._era)
        self._files.write_durably(self._layout.undo_index(self._epoch), data)
        self.close()

    def close(self) -> None:
        """Let go of the files; an unfinished log is resumed by the next session."""
        self._log.abandon()
        self._index.close()
        self._granules.discard()
        self._blocks.discard()

    def _create(self, log_id: UUID) -> None:
        path = self._layout.undo_log(self._epoch)
        self._log = LogWriter.create(
            path, unique_id=log_id, previous_id=UUID(int=0), file_type=UNDO_FILE_TYPE, files=self._files
        )
        self._log.sync()
        self._start_index(log_id, np.zeros(0, ROW))

    def _start_index(self, log_id: UUID, rows: Array) -> None:
        """Begin the growing index with `rows`; it replaces an earlier one whole, for readers look at it meanwhile."""
        self._log_id, self._key, self.rows = log_id, undo_index.key_of(log_id), len(rows)
        path = self._layout.undo_index(self._epoch)
        sealed = undo_index.sealed_rows(rows, self._key)
        self._files.write_durably(path, undo_index.header(log_id, era=self._era) + sealed.tobytes())
        self._index: File = self._files.open(path, write=True)

    def _resume(self) -> None:
        """Nothing behind the last whole metadata block was ever overwritten in the image: that tail may go."""
        log, index = self._layout.undo_log(self._epoch), self._layout.undo_index(self._epoch)
        _, rows = undo_index.valid_prefix(index, files=self._files)
        try:
            self._require_whole(log, rows)
            self._log = LogWriter.resume(log, files=self._files)
        except (FormatError, NotFoundError):
            if len(rows):
                raise
            self._files.unlink(log)
            self._create(uuid4())
            return
        with self._files.open(log, write=True) as file:
            file.write_again()
        log_id, extents = undo_index.log_rows(log, files=self._files)
        known = rows[(rows["kind"] >= KNOWN) | np.isin(rows["offset"], extents["offset"])]
        missing = extents[~np.isin(extents["offset"], known[known["kind"] <= ZEROS]["offset"])]
        self._resumed = np.concatenate([known, missing])
        self._log.sync()
        self._start_index(log_id, self._resumed)

    def _require_whole(self, log: Path, rows: Array) -> None:
        """DamageError when before-images that the index names stand behind damage in the log, where `LogWriter.resume`
        would cut them off. Readers, who go by the index, still have them."""
        with LogReader.open(log, files=self._files, salvage=True) as reader:
            data = rows[rows["kind"] == DATA]
            end = int((data["log_offset"] + data["length"]).max(initial=0))
            if end > reader.end:
                raise DamageError(f"{log}: is damaged behind byte {reader.end} while its movement is not finished; "
                                  "points can be recovered still: do so, then protect into a new store")  # fmt: skip

    def _remember(self, rows: Array) -> None:
        if not len(rows):  # np.unique loads numpy.ma, 35 ms of a sync that resumes nothing
            return
        for row in rows[rows["kind"] <= ZEROS].tolist():
            self._granules.add_run(row[0] // GRANULE, row[2] // GRANULE)
        self._blocks.add(np.unique(rows[rows["kind"] >= KNOWN]["offset"].astype(np.int64)))

    def _save_data(self, granules: Array, old: Array) -> None:
        if not len(granules):
            return
        runs = granule_rows(granules)
        entries = np.zeros(len(runs), ENTRY)
        entries["offset"], entries["length"] = runs["offset"], runs["length"]
        entries["source"], entries["operation"] = runs["buffer"], 1
        rows = np.zeros(len(runs), ROW)
        rows["log_offset"] = self._log.append_many(entries, np.ascontiguousarray(old))
        rows["offset"], rows["length"], rows["kind"] = runs["offset"], runs["length"], DATA
        self._waiting.append(rows)

    def _save_zeros(self, granules: Array) -> None:
        if not len(granules):
            return
        runs = granule_rows(granules)
        for offset, length in zip(runs["offset"].tolist(), runs["length"].tolist(), strict=True):
            self._log.append_zero(offset, length)
        rows = np.zeros(len(runs), ROW)
        rows["offset"], rows["length"], rows["kind"] = runs["offset"], runs["length"], ZEROS
        self._waiting.append(rows)


def empty_index(era: int) -> bytes:
    """The index of an epoch that overwrote nothing, so that epochs can be probed in turn."""
    return undo_index.sorted_file(uuid4(), np.zeros(0, ROW), era=era)
