"""Image files as a sync's source: what our own tracker recorded of them, or nothing at all."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from uuid import UUID, uuid4

import msgspec

from ..errors import BlockReplicaError, BusyError, LogError, UsageError
from ..extents import Extent
from ..files import File, Files
from ..images.names import shows
from ..manifest import Cursor
from ..tracking import ConsistentCut, Cut, CutNotes, EpochRecord, ImageSource, LogMode, TrackingStatus, cut_together
from .decide import Decision, DiskView, decide, follows
from .dirty import dirty_extents
from .logs import DeltaLogs, log_damage


class TrackedDisk:
    """An image file. Its content is read while it may be written: what is read is true after the next delta only.

    `content`: the raw file that shows it, when it is in another format.
    """

    def __init__(self, source: ImageSource, content: Path | None, files: Files, log: LogMode = "always") -> None:
        self.base, self.files, self._log = source, files, log
        self._content = content or source.path
        self.checked: set[Path] = set()
        self.given_up: dict[int, str] = {}  # why epochs have no log: only their tracker knew
        self.foreign: set[str] = set()  # tokens that the replica has, and that this host never gave out

    @property
    def name(self) -> str:
        """The name of the file."""
        return self.base.path.name

    @property
    def changed(self) -> bool:
        """Whether it was written while nothing tracked it."""
        return self.base.state == "changed"

    def size(self) -> int:
        """Bytes in the image now."""
        with self.open() as image:
            return image.size()

    def identity(self) -> list[int]:
        """What the file is now."""
        return self.base.identity().as_list()

    def open(self) -> File:
        """The image, live. BusyError when the daemon that showed it has just ended, or begun."""
        file = self.files.open(self._content)
        if self._content == self.base.path or shows(self._content, file.fileno()):
            return file
        file.close()
        raise BusyError(f"{self.base.path}: its export has just ended; sync again")

    def ask_why(self) -> None:
        """Before a cut: why the epoch that ends there will have no log, if so. Its tracker tells of no ended one."""
        with suppress(BlockReplicaError):  # then the cut says what is wrong
            status = self.base.status()
            if status is not None and (status.log_failed or status.state == "whole image"):
                self.given_up[status.epoch] = why_no_log(status)

    def since(self, begin: Cursor, cut: Cut) -> LoggedChanges:
        """What the tracker's logs and dirty bitmaps tell."""
        return LoggedChanges(self, begin, cut)

    def keep(self, relationship: UUID, cut: Cursor) -> None:
        """Keep the logs of all epochs after `cut`."""
        self.base.begin_cursor(relationship, cut.epoch)

    def acknowledge(self, relationship: UUID, cut: Cursor) -> None:
        """An fsync of the image begun after the cut, then the cursor: rule 2."""
        self.base.sync_image()
        self.base.set_cursor(relationship, cut.epoch, log=self._log)


def why_no_log(status: TrackingStatus) -> str:
    """Why the epoch that a tracker is writing has no log, and what to do about it."""
    if status.state == "whole image":
        return "an fsync of the image failed, and what it reads as may not be on its disk; look after the disk"
    if status.log_error == os.strerror(errno.EFBIG):
        return (
            "it grew to its limit, or to the room that the disk can spare; allow it more, or sync when less is written"
        )
    return f"it could not be written: {status.log_error}; make room for it, or look after its disk"


class LoggedChanges:
    """The epochs between two cuts, by the logs and bitmaps that are left of them."""

    def __init__(self, disk: TrackedDisk, begin: Cursor, cut: Cut) -> None:
        self._disk, self._begin, self._cut = disk, begin, cut

    def decide(self) -> Decision:
        """By the whole table of what may be known."""
        return decide(self._view())

    def delta(self, stack: ExitStack) -> DeltaLogs:
        """The logs, opened and checked; LogError where they don't lead from the one cut to the other."""
        records = self._records()
        if self._begin.token in self._disk.foreign or not follows(self._begin, records, self._cut):
            raise LogError(f"{self._disk.base.path}: its tracking tells another history than epoch {self._begin.epoch}")
        return DeltaLogs.open(
            records, self._begin, stack, checked=self._disk.checked, files=self._disk.files,
            given_up=self._disk.given_up,
        )  # fmt: skip

    def dirty(self, block_size: int, largest: int) -> Iterable[Extent]:
        """What the epochs' bitmaps name; all of the disk where they are not the successors of `begin`."""
        records = self._records()
        if self._begin.token in self._disk.foreign or not follows(self._begin, records, self._cut):
            records = [EpochRecord(self._cut.epoch, None, None)]
        return dirty_extents(records, self._cut.size, block_size, largest, self._disk.files)

    def _view(self) -> DiskView:
        disk, begin, cut = self._disk, self._begin, self._cut
        view = DiskView(name=disk.name, size=cut.size, cut=cut, cursor=begin)
        if begin.tracking_id != str(cut.tracking_id) or begin.epoch > cut.epoch:
            return view
        records = self._records()
        damage, log_bytes = "", 0
        try:
            with ExitStack() as stack:
                log_bytes = self.delta(stack).data_bytes
        except BlockReplicaError as error:
            damage = log_damage(error, disk.name)
        return DiskView(
            name=disk.name, size=cut.size, cut=cut, cursor=begin, records=records, damage=damage,
            log_bytes=log_bytes, was_changed=disk.base.state in ("changed", "unclean"),
            dirty_bytes=self._dirty_bytes(records) if damage else 0,
            put_back=begin.token in disk.foreign, doubted=disk.base.doubted(),
            transit=disk.base.log_mode() == "transit",
        )  # fmt: skip

    def _dirty_bytes(self, records: Sequence[EpochRecord]) -> int:
        if any(record.dirty is None for record in records):
            return self._cut.size
        return sum(each.length for each in dirty_extents(records, self._cut.size, 1, self._cut.size, self._disk.files))

    def _records(self) -> list[EpochRecord]:
        return self._disk.base.records(self._begin.epoch, self._cut.epoch)


class TrackedGroup:
    """Image files, cut together by their trackers. Not frozen: they are written while they are read."""

    frozen = False

    def __init__(
        self, images: Sequence[tuple[ImageSource, Path | None]], files: Files, held: ExitStack | None = None,
        *, log: LogMode = "always", relationship: UUID | None = None, ignore_ctime: bool | None = None,
    ) -> None:  # fmt: skip
        """Images, each with the raw file that shows it, if it is in another format; `held` is closed with the group.

        From the next acknowledgement on they have that log mode; from the next sync on, that rule for ctime.
        """
        self._images, self._held = [image for image, _ in images], held or ExitStack()
        self._relationship, self._token, self._ignore_ctime = relationship, "", ignore_ctime
        self.sources = [TrackedDisk(image, content, files, log) for image, content in images]

    def prepare(self, known: Sequence[Sequence[Cursor]]) -> list[str]:
        """Give the sync a token, durably; whatever of `known` has one that was never given out is of a lost future."""
        warnings = self._tell_ctime()
        if self._relationship is None:
            return warnings
        token = uuid4().hex
        for source, cursors in zip(self.sources, known, strict=True):
            with suppress(BlockReplicaError):  # a token that could not be noted makes the next sync compare
                given = {cursor.token for cursor in cursors}
                source.foreign = source.base.note_sync(self._relationship, given, token)
        self._token = token
        return warnings

    def _tell_ctime(self) -> list[str]:
        """Tell the images' trackers what a ctime means; of those that don't know the word, a warning each."""
        warnings = []
        for image in self._images:
            try:
                if self._ignore_ctime is not None:
                    image.ignore_ctime(ignore=self._ignore_ctime)
            except UsageError:
                warnings.append(
                    f"{image.path}: its tracker is of an older version and can't be told what a ctime means that alone "
                    "changed; start its export anew"
                )
        return warnings

    def one_cut(self) -> bool:
        """Where logs are kept in transit only, the second cut makes the point of a delta too."""
        return all(image.log_mode() != "transit" for image in self._images)

    def cut(self) -> list[Cut | None]:
        """Cut all at one instant."""
        for source in self.sources:
            source.ask_why()
        return [cut and msgspec.structs.replace(cut, token=self._token) for cut in cut_together(self._images)]

    def consistent_cuts(self) -> list[ConsistentCut]:
        """They stand beside the image of disk 0."""
        notes = self._notes()
        return notes.read() if notes else []

    def note_consistent(self, change: Callable[[list[ConsistentCut]], list[ConsistentCut]]) -> None:
        """All disks of a cut are one note, written in one step."""
        notes = self._notes()
        if notes:
            notes.change(change)

    def _notes(self) -> CutNotes | None:
        return self._images[0].notes(self._relationship) if self._relationship else None

    def check(self) -> None:
        """What changes while it is read is in the next log, or the identity tells; but each must be the same file."""
        for image in self._images:
            if image.state == "tracking":
                image.require_in_place()

    def close(self) -> None:
        """Let go of the images."""
        for image in self._images:
            image.close()
        self._held.close()
