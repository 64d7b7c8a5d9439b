"""What a sync asks of a primary, whatever tracks it: its disks, cut together, and what changed since a point.

Group   the disks of a relationship; `cut` is one instant for all of them
Source  one disk: how large, what it is, its content, what changed, what may be let go of
Changes what happened to a disk between two of its cuts: enough to decide, to move, or to compare
Delta   the changes themselves, coalesced, with the content that they had at the later cut
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from typing import Protocol
from uuid import UUID

from ..arrays import Rows
from ..extents import Extent
from ..files import File
from ..manifest import Cursor
from ..tracking import ConsistentCut, Cut
from .decide import Decision


class Delta(Protocol):
    """Changes with their content. Rows are `hrl.ENTRY`: WRITE has data, anything else makes zeros."""

    @property
    def data_bytes(self) -> int:
        """About as many bytes as must be read."""

    def coalesced(self, size: int) -> Iterator[Rows]:
        """Entries that never overlap, sorted, clipped to a disk of `size` bytes, in windows of the disk."""

    def read(self, batch: Rows, buffer: bytearray) -> Rows:
        """Fill `buffer` with the data of WRITE entries; returns EXTENT rows that say where each piece stands."""


class Changes(Protocol):
    """What happened between `begin` and a cut."""

    def decide(self) -> Decision:
        """The movement that a replica needs which stands at `begin`."""

    def delta(self, stack: ExitStack) -> Delta:
        """The changes, proved whole before the first is used. FormatError or NotFoundError: they are not."""

    def dirty(self, block_size: int, largest: int) -> Iterable[Extent]:
        """Sorted extents of whole blocks, none over `largest` bytes, that may have changed; all where nobody knows.

        They can be gone through again and again.
        """


class Source(Protocol):
    """One disk. `name` is what people call it; `changed`: it was written while nothing tracked it, or is suspect."""

    @property
    def name(self) -> str: ...

    @property
    def changed(self) -> bool: ...

    def size(self) -> int:
        """Bytes in the image now."""

    def identity(self) -> list[int]:
        """What the image is now; whoever writes it after this returns leaves another identity."""

    def open(self) -> File:
        """The content: of a frozen group what it was at the cut, else what it is when it is read."""

    def since(self, begin: Cursor, cut: Cut) -> Changes:
        """What happened between two cuts."""

    def keep(self, relationship: UUID, cut: Cursor) -> None:
        """Keep what tells of changes after `cut`, whatever other relationships let go of."""

    def acknowledge(self, relationship: UUID, cut: Cursor) -> None:
        """The replica has, durably, all up to `cut`: make it durable here too, then let go of what told of it."""


class Group(Protocol):
    """The disks of a relationship, while one sync lasts."""

    @property
    def sources(self) -> Sequence[Source]: ...

    @property
    def frozen(self) -> bool:
        """Whether content that is read after a cut is what it was at the cut, so that no second cut is needed."""

    def prepare(self, known: Sequence[Sequence[Cursor]]) -> list[str]:
        """All that may take its time before a cut, so that whoever is frozen for it is not for long.

        `known`: for each disk, where the replica stands, and where its interrupted movement began. Returns warnings.
        """

    def one_cut(self) -> bool:
        """Whether a delta needs one cut alone, which then makes the point."""

    def cut(self) -> list[Cut | None]:
        """Cut all at one instant; None for each that is not tracked."""

    def consistent_cuts(self) -> list[ConsistentCut]:
        """The application-consistent cuts that earlier syncs noted and that have no point yet, oldest first."""

    def note_consistent(self, change: Callable[[list[ConsistentCut]], list[ConsistentCut]]) -> None:
        """Change those notes durably."""

    def check(self) -> None:
        """StorageError when what was read since the cut may not be what it must be for the point."""

    def close(self) -> None:
        """Let go of what the sync needed."""
