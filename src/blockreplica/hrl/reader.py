"""Reads a change log of any version: its header, its entries in the order written, and whether all of it is right.

Memory stays bounded by the batch, whatever the log's size and whatever its fields claim: a hundred gigabytes are read
as one kilobyte is. Blocks are checked as they are read (`entries`), data when asked (`check`).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec

from .. import kernels
from ..arrays import Array, np
from ..errors import LogError, LogOpenError, translated
from ..files import FILES, File, Files
from ..progress import SILENT, Progress
from .chain import Chain
from .format import ENTRY, EXTENDED, HEADER_SIZE, VERSIONS, WRITE, Header, raise_fault
from .salvage import salvage as look_for_blocks

#: Blocks checked in one call of the kernel, so that Ctrl-C is heard and progress is told.
BLOCKS_A_CHECK = 64

Batch = tuple[Array, Array]


class Summary(msgspec.Struct, frozen=True):
    """What a full check found. `data` is "checked", or "unchecked" where any data carries no checksum."""

    version: str
    blocks: int
    entries: int
    #: Bytes of data in the log; bytes that its zero entries make zero.
    data_bytes: int
    zero_bytes: int
    #: The first byte behind all writes: an image must have this size at least.
    writes_end: int
    data: str


class LogReader:
    """An open log. `closed` tells whether it was sealed, `salvaged` whether blocks were looked for instead of counted.

    `end` is where its last block ends, `total` how many entries it has.
    """

    def __init__(self, file: File, raw: bytes, header: Header) -> None:
        self.file, self.path, self.header = file, file.path, header
        self.closed, self.salvaged = header.end != 0, False
        self.end, self.total = header.end, header.total_entries
        self._raw = raw
        self._chain = Chain(file, raw, 0)

    @classmethod
    def open(cls, path: str | Path, *, files: Files = FILES, salvage: bool = False) -> LogReader:
        """Open a log. LogOpenError for one that was not closed, LogError for what is malformed.

        With `salvage` neither, if only the header is whole: a log that is closed and right is read as it is, any other
        up to the last block before the first fault.
        """
        file = files.open(Path(path))
        try:
            raw = file.pread(HEADER_SIZE, 0)
            reader = cls(file, raw, Header.decode(raw, file.path))
            if not salvage or not reader._whole():
                reader._salvage() if salvage else reader._locate()
        except BaseException:
            file.close()
            raise
        return reader

    def entries(self, rows: int = 65536) -> Iterator[Array]:
        """The entries in the order written, in arrays of ENTRY with at most `rows` rows.

        `source` is where the data stands in the log, 2**64 - 1 for zero entries; `log` is 0. Every block is checked,
        data is not. LogError at the first that is wrong.
        """
        for entries, _ in self.records(rows):
            yield entries

    def records(self, rows: int = 65536) -> Iterator[Batch]:
        """As `entries`, each batch with the times (u32, seconds since 2000) of its entries."""
        rows = max(rows, self.header.room)
        for positions, end, number in self._pieces(1 << 30):
            while len(positions):
                batch, stamps = np.empty(rows, ENTRY), np.empty(rows, "<u4")
                blocks, count, _ = self._read(positions, end, number, batch, stamps)
                if count:
                    yield batch[:count], stamps[:count]
                end, number = int(positions[blocks - 1]) + self.header.metadata_size, number + blocks
                positions = positions[blocks:]

    def check(
        self, *, data: bool = True, slots: bool = True, most: int = BLOCKS_A_CHECK, progress: Progress = SILENT
    ) -> Summary:
        """Check every block, entry, count and distance, and with `data` all data that carries a checksum.

        `slots`: unused slots of metadata blocks must be zero in strict logs, too. `most`: metadata blocks, with the
        data before each, that are read between two words to `progress`. Raises LogError.
        """
        progress.start(f"checking {self.path.name}", self.end)
        room = most * self.header.room
        batch, stamps = np.empty(room, ENTRY), np.empty(room, "<u4")
        blocks = entries = unchecked = data_bytes = zero_bytes = writes_end = 0
        for positions, end, number in self._pieces(most):
            done, count, bare = self._read(positions, end, number, batch, stamps, data=data, slots=slots)
            rows = batch[:count]
            writes = rows[(rows["operation"] == WRITE) & (rows["length"] > 0)]
            blocks, entries, unchecked = blocks + done, entries + count, unchecked + bare
            data_bytes += int(writes["length"].sum())
            zero_bytes += int(rows["length"].sum()) - int(writes["length"].sum())
            writes_end = max(writes_end, int((writes["offset"] + writes["length"]).max(initial=0)))
            progress.advance(int(positions[-1]) + self.header.metadata_size - end)
        covered = data and (self.header.version == EXTENDED or unchecked == 0)
        return Summary(
            VERSIONS[self.header.version], blocks, entries, data_bytes, zero_bytes, writes_end,
            "checked" if covered else "unchecked",
        )  # fmt: skip

    def close(self) -> None:
        """Close the file."""
        self.file.close()

    def __enter__(self) -> LogReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _pieces(self, most: int) -> Iterator[tuple[Array, int, int]]:
        """Positions of at most `most` blocks, where the block before them ends, and how many stand before."""
        end, number = HEADER_SIZE, 0
        for positions in self._chain.forward():
            for at in range(0, len(positions), most):
                piece = positions[at : at + most]
                yield piece, end, number
                end, number = int(piece[-1]) + self.header.metadata_size, number + len(piece)

    def _read(
        self, positions: Array, end: int, number: int, batch: Array, stamps: Array, *,
        data: bool = False, slots: bool = False,
    ) -> tuple[int, int, int]:  # fmt: skip
        """Blocks and rows that were read, and entries whose data carries no checksum."""
        with translated(self.path, f"reading at offset {end}"):
            blocks, count, unchecked, fault = kernels.hrl_read(
                self.file.fileno(), self._raw, positions.data, end, number, batch.data, stamps.data, data=data,
                slots=slots,
            )  # fmt: skip
        raise_fault(self.path, fault)
        return blocks, count, unchecked

    def _whole(self) -> bool:
        """Whether the log is closed and right, data included."""
        try:
            self._locate()
            self.check(slots=False)
        except LogError:
            return False
        return True

    def _locate(self) -> None:
        """Find the blocks of a closed log by its end."""
        end, size = self.header.end, self.file.size()
        if end == 0:
            hint = "`blockreplica hrl show --salvage` lists what it holds"
            raise LogOpenError.at(
                self.path, 44, "log that was not closed", wanted="the end of the log", got=0, hint=hint
            )
        if end > size:
            raise LogError.at(self.path, 44, "end of the log", wanted=f"at most {size}, the file's size", got=end)
        first = HEADER_SIZE + self.header.metadata_size
        if end != HEADER_SIZE and end < first:
            raise LogError.at(self.path, 44, "end of the log", wanted=f"at least {first}", got=end)
        self._chain = Chain(self.file, self._raw, end - self.header.metadata_size if end >= first else 0)
        if self._chain.entries != self.header.total_entries:
            raise LogError.at(
                self.path, 96, "entries in the log", wanted=self._chain.entries, got=self.header.total_entries
            )
        self.end, self.total = end, self.header.total_entries

    def _salvage(self) -> None:
        """Find the blocks of any log by looking for them."""
        size = self.file.size()
        limit = min(self.header.end, size) if self.closed else size
        found = look_for_blocks(self.file, self._raw, limit)
        self._chain = Chain(self.file, self._raw, found.last)
        self.end, self.total, self.salvaged = found.end, found.entries, True
