"""Going through an image block by block: the first copy, and comparing (resync, scan, what a dirty bitmap names).

The image may be written meanwhile; the delta that follows makes the result consistent. Every few seconds all that was
done is made durable and noted, so that an interruption resumes there.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from functools import partial
from itertools import chain

import msgspec

from ..ahead import ahead
from ..arrays import Rows, np
from ..checksums import PAGE_ENTRIES
from ..errors import NoSpaceError, StorageError
from ..extents import Extent, windows
from ..files import File
from ..progress import Progress
from ..stores.disk import DiskWriter
from .delta import BATCH_BYTES, data_batches
from .logs import packed
from .result import Tally

WINDOW_PAGES = 8
CHECKPOINT_SECONDS = 3.0
PROBE_BYTES = 1 << 20
LAND_BYTES = 1 << 30  # compared before what differed there begins to become durable, beside the comparing of the rest
WINDOWS_A_BATCH = 4096
SCANS_AHEAD = 4  # windows read while what differed in an earlier one is dealt with, or numpy loads for it


class Pass(msgspec.Struct):
    """One disk's way through its image. `copies`: nothing behind `done` in the replica is trusted, all is copied.

    What differs is gathered over windows, and sent when there is enough of it, or at `send`.
    """

    source: File
    disk: DiskWriter
    windows: Iterable[Extent]
    deep: bool = False
    copies: bool = False
    done: int = 0
    found: list[Rows] = msgspec.field(default_factory=list)
    found_bytes: int = 0
    compared: int = 0
    room: bytearray = msgspec.field(default_factory=bytearray)  # kept: memory touched anew costs more than its use

    def run(self, tally: Tally) -> Generator[Extent]:
        """Bring window by window up to what the source holds now, naming each when it is; those that are not to be
        done again too. While one is dealt with the next is being read."""
        windows = iter(self.windows)
        for window in windows:  # in order: what was done comes first
            if window.end > self.done:
                windows = chain([window], windows)
                break
            yield window
        yield from self._copied(windows, tally) if self.copies else self._compared(windows, tally)
        self.send(tally)

    def _copied(self, windows: Iterable[Extent], tally: Tally) -> Iterator[Extent]:
        for window in windows:
            written = self._copy(window)
            tally.add(scanned=written, dirty=written, sent=written)
            self.done = window.end
            yield window

    def _compared(self, windows: Iterable[Extent], tally: Tally) -> Iterator[Extent]:
        steps = (partial(self.disk.scan, self.source, window, deep=self.deep) for window in windows)
        with closing(ahead(steps, most=SCANS_AHEAD)) as scans:
            for scan in scans:
                rows = self.disk.differing(scan)
                tally.add(scanned=scan.bytes_read)
                self.found.append(rows)
                self.found_bytes += int(rows["length"].sum())
                if self.found_bytes >= BATCH_BYTES or len(self.found) >= WINDOWS_A_BATCH:
                    self.send(tally)
                self.done = scan.extent.end
                self._land(scan.bytes_read, tally)
                yield scan.extent

    def _land(self, compared: int, tally: Tally) -> None:
        self.compared += compared
        if self.compared >= LAND_BYTES:
            self.compared = 0
            self.send(tally)
            self.disk.hasten()

    def send(self, tally: Tally) -> None:
        """Send what was found to differ."""
        if self.found:
            rows = np.concatenate(self.found)
            self.found, self.found_bytes = [], 0
            if not self.room:
                self.room = bytearray(BATCH_BYTES)
            copy_rows(self.source, self.disk, rows, tally, self.room)

    def _copy(self, window: Extent) -> int:
        try:
            return self.disk.copy(self.source, window)
        except NoSpaceError:
            raise
        except StorageError:
            for piece in windows(window.end, PROBE_BYTES, window.offset):
                self.source.pread(piece.length, piece.offset)  # if the source is at fault, this says so, and where
            raise


def whole_windows(size: int, block_size: int) -> list[Extent]:
    """All of a disk, in windows of whole table pages."""
    return list(windows(size, window_bytes(block_size)))


def window_bytes(block_size: int) -> int:
    """Bytes of a window: whole table pages, about 128 MiB of them."""
    return PAGE_ENTRIES * block_size * max(1, WINDOW_PAGES * 65536 // block_size)


def copy_rows(source: File, disk: DiskWriter, rows: Rows, tally: Tally, room: bytearray) -> None:
    """Send what the source holds at these extents, through BATCH_BYTES of `room`."""
    for batch in data_batches(rows):
        extents = packed(batch)
        source.read_extents(extents, room)
        tally.add(dirty=int(batch["length"].sum()), sent=disk.write(extents, memoryview(room), proved=True))


def run_passes(
    passes: Sequence[Pass], tally: Tally, progress: Progress, *,
    checkpoint: Callable[[], None], clock: Callable[[], float],
) -> None:  # fmt: skip
    """Take every pass to its end, with a checkpoint every few seconds."""
    noted = clock()
    for one in passes:
        with closing(one.run(tally)) as windows:
            for window in windows:
                progress.advance(window.length)
                if clock() - noted >= CHECKPOINT_SECONDS:
                    one.send(tally)
                    checkpoint()
                    noted = clock()
