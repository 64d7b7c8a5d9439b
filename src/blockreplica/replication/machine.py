"""The disks of a running QEMU as a sync's source: frozen at the cut, so that one cut makes the point."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from uuid import UUID

from ..arrays import Rows, np
from ..errors import TrackingError
from ..extents import Extent, merged, neighbours, windows, within
from ..files import File
from ..hrl import ENTRY
from ..images.nbd import ALLOCATION, ZERO, NbdFile
from ..manifest import Cursor
from ..tracking import ConsistentCut, Cut, NotesFile
from ..tracking.qemu import Machine
from ..tracking.qemu.fleece import context
from .decide import Decision, Need
from .dirty import DirtyExtents
from .logs import DeltaLogs, packed
from .source import Delta

WINDOW = 512 << 20  # of the disk, whose dirty extents are held at once
GAP, SPAN = 4 << 20, 64 << 20  # dirty extents no farther apart, and so much of the disk, are asked about together
_WRITE, _ZERO = 1, 2
_DIRTY = 1  # of qemu:dirty-bitmap


class MachineDisk:
    """A disk of a running QEMU."""

    changed = False

    def __init__(self, machine: Machine, index: int) -> None:
        self.machine, self.index = machine, index

    @property
    def name(self) -> str:
        """Its node name."""
        return self.machine.disks[self.index].node

    def size(self) -> int:
        """Bytes in the disk."""
        return self.machine.disks[self.index].size

    def identity(self) -> list[int]:
        """Nothing but QEMU writes it while QEMU has it, and that is tracked."""
        return []

    def open(self) -> File:
        """The content at the cut."""
        return self.machine.open(self.index)

    def since(self, begin: Cursor, cut: Cut) -> BitmapChanges:
        """What the dirty bitmaps tell."""
        return BitmapChanges(self, begin, cut)

    def keep(self, relationship: UUID, cut: Cursor) -> None:
        """Bitmaps are the relationship's own, and stay until they are acknowledged."""

    def acknowledge(self, relationship: UUID, cut: Cursor) -> None:
        """The frozen bitmaps go. After a power cut or a crash none is believed, so that no fsync is needed first."""
        self.machine.acknowledge(self.index, cut.epoch)


class BitmapChanges:
    """What changed between two cuts, by dirty bitmaps."""

    def __init__(self, disk: MachineDisk, begin: Cursor, cut: Cut) -> None:
        self._disk, self._begin, self._cut = disk, begin, cut

    def decide(self) -> Decision:
        """A delta wherever the bitmaps are known to be whole."""
        lost, name = self._lost(), self._disk.name
        return Decision(Need.WHOLE, f"{name} {lost}") if lost else Decision(Need.DELTA, f"{name} has a dirty bitmap")

    def delta(self, stack: ExitStack) -> Delta:
        """What the bitmaps name, with its content at the cut; TrackingError when they are not whole."""
        if self._at_cut():
            return DeltaLogs([])
        lost = self._lost()
        if lost:
            raise TrackingError(f"{self._disk.name} {lost}")
        machine, index = self._disk.machine, self._disk.index
        bitmap = machine.changed(index, self._begin.epoch)
        file = machine.open(index, bitmap)
        stack.enter_context(file)
        return BitmapDelta(file, context(bitmap), machine.dirty_bytes(index, self._begin.epoch))

    def dirty(self, block_size: int, largest: int) -> DirtyExtents:
        """What the bitmaps name; all of the disk where they are not whole."""
        size = self._cut.size
        if self._at_cut() or self._lost():
            whole = [] if self._at_cut() else [Extent(0, size)]
            return DirtyExtents(lambda: iter(whole), size, block_size, largest)
        bitmap = self._disk.machine.changed(self._disk.index, self._begin.epoch)
        return DirtyExtents(lambda: self._marked(bitmap), size, block_size, largest)

    def _marked(self, bitmap: str) -> Iterator[Extent]:
        """As they are asked for: a large disk may have millions."""
        file = self._disk.machine.open(self._disk.index, bitmap)
        with file:
            for extent, flags in file.extents(context(bitmap), Extent(0, self._cut.size)):
                if flags & _DIRTY:
                    yield extent

    def _at_cut(self) -> bool:
        return (self._begin.epoch, self._begin.chain) == (self._cut.epoch, str(self._cut.chain))

    def _lost(self) -> str:
        if self._begin.tracking_id != str(self._cut.tracking_id):
            return "was tracked by other means at the last point"
        return self._disk.machine.lost(self._disk.index, self._begin.epoch, self._begin.chain)


class BitmapDelta:
    """The dirty extents of an export, read from it."""

    def __init__(self, file: NbdFile, bitmap: str, data_bytes: int) -> None:
        self._file, self._bitmap, self.data_bytes = file, bitmap, data_bytes

    def coalesced(self, size: int) -> Iterator[Rows]:
        """Dirty extents: zeros where the export says so, data elsewhere."""
        for window in windows(size, WINDOW):
            dirty = merged(each for each, flags in self._file.extents(self._bitmap, window) if flags & _DIRTY)
            rows = [
                (part.offset, part.length, part.offset, 0, _ZERO if flags & ZERO else _WRITE)
                for group in neighbours(dirty, gap=GAP, most=SPAN)  # an answer for each extent would take longer
                for part, flags in self._told(group)
            ]
            if rows:
                yield np.array(rows, ENTRY)

    def _told(self, group: list[Extent]) -> Iterator[tuple[Extent, int]]:
        """The parts of extents that are neighbours, with what the export says of them."""
        around = Extent(group[0].offset, group[-1].end - group[0].offset)
        return within(group, self._file.extents(ALLOCATION, around))

    def read(self, batch: Rows, buffer: bytearray) -> Rows:
        """The content at the cut."""
        extents = packed(batch)
        wanted = extents.copy()
        wanted["offset"] = batch["source"]
        self._file.read_extents(wanted, buffer)
        return extents


class MachineGroup:
    """Disks of one QEMU, cut in one transaction."""

    frozen = True

    def __init__(self, machine: Machine, notes: NotesFile) -> None:
        """`notes`: where application-consistent cuts are noted."""
        self._machine, self._notes = machine, notes
        self.sources = [MachineDisk(machine, index) for index in range(len(machine.disks))]

    def prepare(self, known: Sequence[Sequence[Cursor]]) -> list[str]:
        """Scratch images, and what a dead sync left."""
        above = max((cursor.epoch for cursors in known for cursor in cursors), default=0)
        self._machine.prepare([{cursor.chain for cursor in cursors} for cursors in known], above=above)
        return []

    def one_cut(self) -> bool:
        """What is frozen needs no second."""
        return True

    def cut(self) -> list[Cut | None]:
        """One transaction."""
        return list(self._machine.cut())

    def consistent_cuts(self) -> list[ConsistentCut]:
        """QEMU keeps no content of theirs: all that the next point can do is say so."""
        return self._notes.read()

    def note_consistent(self, change: Callable[[list[ConsistentCut]], list[ConsistentCut]]) -> None:
        """In the state folder."""
        self._notes.change(change)

    def check(self) -> None:
        """QEMU kept all old content until now."""
        self._machine.check()

    def close(self) -> None:
        """Let go of QEMU."""
        self._machine.close()
