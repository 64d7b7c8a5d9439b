"""What a sync sees of one image: tracked live by some process, closed, changed behind the tracker's back, untracked.

Nothing here trusts what it can't prove: an image that was changed while nothing tracked it, or whose tracker died,
is settled first, under the tracker's lock, and that ends the epoch with what can still be known of it.
"""

from __future__ import annotations

import contextlib
import os
import stat
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Literal
from uuid import UUID

from ..bitmap import DirtyBitmap
from ..errors import (
    BlockReplicaError,
    BusyError,
    FormatError,
    NotFoundError,
    RefusedError,
    StorageError,
    translated,
)
from ..files import FILES, File, Files
from ..hrl import Header
from .control import Control, GoneError
from .cursors import CutNotes, change_cursors, note_sync
from .names import Names, is_device
from .native import open_tracker
from .state import TrackingState, read_state
from .types import Cut, EpochRecord, Identity, LogMode, TrackingStatus, same_log

SourceState = Literal["tracking", "closed", "changed", "unclean", "untracked"]
_TRIES, _PAUSE_S = 60, 0.05
_COARSE = 5  # CLOCK_REALTIME_COARSE: the clock that stamps files
EPOCHS = 100_000  # a longer backlog is not worth listing


def require_image(path: Path) -> os.stat_result:
    """What the system says of an image. RefusedError for anything that is no image, without opening it."""
    with translated(path, "opening"):
        info = os.stat(path)
    if not (stat.S_ISREG(info.st_mode) or stat.S_ISBLK(info.st_mode)):
        raise RefusedError(f"{path}: is no disk image; wanted a regular file or a block device")
    return info


class ImageSource:
    """One image as a sync's source. `state` is how it was found, at `open` or at the latest cut."""

    contained = False

    def __init__(self, names: Names, files: Files) -> None:
        self.names, self._files = names, files
        self.path = names.image
        self.state: SourceState = "untracked"

    @classmethod
    def open(
        cls, path: str | os.PathLike[str], *, files: Files = FILES, tracking_dir: str | os.PathLike[str] | None = None
    ) -> ImageSource:
        """Look at an image. NotFoundError: there is none; RefusedError: it is neither a file nor a block device."""
        names = Names.of(path, tracking_dir)
        require_image(names.image)
        names.claim(files)
        with files.open(names.image) as image:
            if is_device(names.image) and image.size() == 0:
                raise NotFoundError(f"{names.image}: has no medium; attach it, or check the path")
        source = cls(names, files)
        source.state = source._look()
        return source

    def size(self) -> int:
        """Bytes in the image now."""
        with self._files.open(self.path) as image:
            return image.size()

    def identity(self) -> Identity:
        """What the image is now; whoever writes it after this returns leaves another identity."""
        with self._files.open(self.path) as image:
            for _ in range(50):
                found = Identity.of(image.fileno())
                now = time.clock_gettime_ns(_COARSE)
                if now > max(found.mtime_ns, found.ctime_ns):
                    break
                time.sleep(0.001)  # a write within the same tick of the clock would leave the same times
            return found

    def status(self) -> TrackingStatus | None:
        """How the tracker is, when one has the image open."""
        control = Control.connect(self.names, self._files)
        if control is None:
            return None
        try:
            with control:
                return control.status()
        except GoneError:
            return None

    def tracked(self) -> bool:
        """Whether it is tracked at all. A block device is only while a tracker has it open: nothing else of it tells
        that nobody wrote it since."""
        if not self._files.exists(self.names.tracking):
            self.state = "untracked"
            return False
        if is_device(self.path):
            self.state = self._look()
            return self.state == "tracking"
        return True

    def ask(self) -> Control | None:
        """A connection to its tracker, when one has the image open."""
        control = Control.connect(self.names, self._files)
        if control is not None:
            self.state = "tracking"
            try:
                self.require_in_place()
            except BlockReplicaError:
                control.close()
                raise
        return control

    def require_in_place(self) -> None:
        """BusyError when a tracker has the image open and its name has come to mean another file: what the one tells
        is not of the other, and the two together would be no state of either."""
        state = self._state()
        if state is None or state.clean or state.contained or not state.identity.ino:
            return
        with self._files.open(self.path) as image:
            found = Identity.of(image.fileno())
        if (found.ino, found.generation) != (state.identity.ino, state.identity.generation):
            raise BusyError(f"{self.path}: was replaced by another file while process {state.pid} has the old one "
                            "open; close that, and sync again")  # fmt: skip

    def cut(self) -> Cut | None:
        """The image's state now as the end of an epoch; None when it is not tracked.

        A live tracker cuts. A closed image needs none: its last epoch ended when it was closed. Anything else is
        settled first: see `native/tracker_open.c`.
        """
        for _ in range(_TRIES):
            if not self.tracked():
                return None
            control = self.ask()
            if control is None:
                held = self.hold()
                if held is not None:
                    with held:
                        return held.cut(time.time())
            else:
                try:
                    with control:
                        return control.cut()
                except GoneError:
                    pass  # closed, or died, this moment
            time.sleep(_PAUSE_S)
        raise BusyError(f"{self.names.tracking}: {self._holder()} has the image and does not answer; close it there")

    def hold(self) -> HeldImage | None:
        """Keep trackers away from an image that none has open; None when one has. Settles what must be settled."""
        held = self._hold_closed()
        if held is not None or is_device(self.path):
            return held
        try:
            open_tracker(self.names, files=self._files, settle_only=True).close()
        except BusyError:
            return None
        file = self._files.open(self.names.tracking, write=True)
        state = read_state(file, self.names.tracking) if file.lock() else None
        if state is None:
            file.close()
            return None
        return HeldImage(file, state)

    def _hold_closed(self) -> HeldImage | None:
        """Hold it if it was closed in order, and nobody touched it since; the tracker takes the lock itself."""
        file = self._files.open(self.names.tracking, write=True)
        if file.lock():
            self.state, state = self._judge(file)
            if self.state == "closed" and state is not None:
                return HeldImage(file, state)
        file.close()
        return None

    def records(self, after: int, upto: int) -> list[EpochRecord]:
        """What is left of the epochs in (after, upto], oldest first. Only what belongs to this image's tracking is
        named, and a dirty bitmap only if it is whole; logs are the reader's to check."""
        if upto - after > EPOCHS:
            return [EpochRecord(upto, None, None)]
        with self._files.open(self.names.tracking) as file:
            state = read_state(file, self.names.tracking)
        return [self._record(epoch, state) for epoch in range(after + 1, upto + 1)]

    def doubted(self) -> bool:
        """Whether an fsync of it failed, so that it may come to read otherwise than it does, by itself."""
        state = self._state()
        return state is not None and state.failed

    def ignore_ctime(self, *, ignore: bool) -> None:
        """Have the tracking file say, before anything is settled, what a ctime means that alone changed."""
        for _ in range(_TRIES):
            state = self._state()
            if state is None or state.ignore_ctime == ignore or is_device(self.path):
                return
            control = Control.connect(self.names, self._files)
            with contextlib.suppress(GoneError, BusyError):
                if control is None:
                    self._settle_ctime(ignore=ignore)
                    return
                with control:
                    control.ignore_ctime(ignore=ignore)
                    return
            time.sleep(_PAUSE_S)
        raise BusyError(f"{self.names.tracking}: {self._holder()} has the image and does not answer; close it there")

    def sync_image(self) -> None:
        """Make what was written to the image durable. When it fails, nothing written to it may be let go."""
        control = Control.connect(self.names, self._files)
        if control is not None:
            try:
                with control:
                    control.sync()
                    return
            except GoneError:
                pass
        try:
            with self._files.open(self.path) as image:
                image.sync()
        except StorageError:
            self._distrust()
            raise

    def set_cursor(self, relationship: UUID, epoch: int, *, log: LogMode = "always") -> None:
        """Record durably that a relationship has everything up to `epoch`; let go of what all have.

        From now on the image has the log mode that it wants, if no other relationship has a cursor: else, always.
        """
        alone = False

        def change(cursors: dict[UUID, int]) -> None:
            nonlocal alone
            cursors[relationship] = epoch
            alone = len(cursors) == 1

        self._change_cursors(change)
        self._have_log(log if alone else "always")

    def begin_cursor(self, relationship: UUID, epoch: int) -> None:
        """Keep all epochs after `epoch` for a relationship that has no cursor yet."""
        self._change_cursors(lambda cursors: cursors.setdefault(relationship, epoch))

    def note_sync(self, relationship: UUID, known: Collection[str], token: str) -> set[str]:
        """A sync begins: see `cursors.note_sync`."""
        state = self._state()
        if state is None:
            return set()
        return note_sync(self.names, state.tracking_id, self._files, relationship, known, token)

    def drop_cursor(self, relationship: UUID) -> None:
        """Forget a relationship."""
        if notes := self.notes(relationship):
            notes.change(lambda _: [])
        self._change_cursors(lambda cursors: cursors.pop(relationship, None))

    def notes(self, relationship: UUID) -> CutNotes | None:
        """The notes of a relationship whose disk 0 this is; None where nothing tracks it."""
        state = self._state()
        return CutNotes(self.names, state.tracking_id, self._files, relationship) if state else None

    def close(self) -> None:
        """Nothing is kept open."""

    def __enter__(self) -> ImageSource:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def log_mode(self) -> LogMode:
        """The mode that the tracking file tells of."""
        state = self._state()
        return state.log if state else "always"

    def _state(self) -> TrackingState | None:
        try:
            with self._files.open(self.names.tracking) as file:
                return read_state(file, self.names.tracking)
        except NotFoundError:
            return None

    def _have_log(self, mode: LogMode) -> None:
        """Also where it has that mode already, a tracker need not go on with the log that the sync needed."""
        before = self.log_mode()
        if mode == before == "always":
            return
        control = Control.connect(self.names, self._files)
        if control is not None:
            with control, contextlib.suppress(GoneError):  # gone: its next one asks again
                control.log(mode)
        elif mode != before:
            open_tracker(self.names, files=self._files, settle_only=True, log=mode).close()

    def _settle_ctime(self, *, ignore: bool) -> None:
        open_tracker(self.names, files=self._files, settle_only=True, ignore_ctime=ignore).close()

    def _distrust(self) -> None:
        """After a failed fsync of a closed image: one that succeeds later proves nothing, so all is compared again."""
        if self._files.exists(self.names.tracking):
            open_tracker(self.names, files=self._files, settle_only=True, suspect=True).close()

    def _look(self) -> SourceState:
        if not self._files.exists(self.names.tracking):
            return "untracked"
        control = Control.connect(self.names, self._files)
        if control is not None:
            control.close()
            return "tracking"
        try:
            with self._files.open(self.names.tracking) as file:
                return self._judge(file)[0] if file.lock() else "tracking"
        except NotFoundError:
            return "untracked"

    def _judge(self, file: File) -> tuple[SourceState, TrackingState | None]:
        state = read_state(file, self.names.tracking)
        if state is None or state.contained != self.contained:
            return "changed", None
        resized = not state.contained and state.identity.size != state.size  # while it was open, by somebody else
        if not state.clean or state.failed or resized:  # which the next boot settles
            return "unclean", state
        with self._files.open(self.path) as image:
            same = Identity.of(image.fileno()).fits(state.identity, ignore_ctime=state.ignore_ctime)
        return ("closed" if same else "changed"), state

    def _holder(self) -> str:
        state = self._state()
        return f"process {state.pid}" if state and state.pid else "another process"

    def _record(self, epoch: int, state: TrackingState | None) -> EpochRecord:
        if state is None:
            return EpochRecord(epoch, None, None)
        bitmap = self._bitmap(epoch, state.tracking_id)
        log, header = self._log(epoch)
        chain, previous = (bitmap.chain, bitmap.previous) if bitmap else (None, None)
        if header is not None:
            if header.data_write_guid != state.tracking_id or not (chain is None or same_log(chain, header.unique_id)):
                log = None
            elif bitmap is None:
                chain, previous = header.unique_id, header.previous_id
        return EpochRecord(epoch, log, bitmap.path if bitmap else None, chain, previous,
                           bitmap.ended if bitmap else "cut")  # fmt: skip

    def _bitmap(self, epoch: int, tracking_id: UUID) -> DirtyBitmap | None:
        try:
            bitmap = DirtyBitmap.open(self.names.dirty(epoch), files=self._files)
        except BlockReplicaError:
            return None
        return bitmap if (bitmap.tracking_id, bitmap.epoch) == (tracking_id, epoch) else None

    def _log(self, epoch: int) -> tuple[Path | None, Header | None]:
        """An epoch's log, and its header unless that is damaged: whoever reads the log will say how."""
        path = self.names.log(epoch)
        try:
            with self._files.open(path) as file:
                return path, Header.decode(file.pread(4096, 0), path)
        except FormatError:
            return path, None
        except BlockReplicaError:
            return None, None

    def _change_cursors(self, change: Callable[[dict[UUID, int]], object]) -> None:
        state = self._state()
        if state is not None:
            change_cursors(self.names, state.tracking_id, self._files, change, size=state.size)


class HeldImage:
    """An image that no tracker has open, kept so: what it holds is what its last epoch ended with."""

    def __init__(self, file: File, state: TrackingState) -> None:
        self._file, self._state = file, state

    def cut(self, time_s: float) -> Cut:
        """Its last cut, which is still true at `time_s`."""
        return self._state.cut(time_s)

    def close(self) -> None:
        """Let trackers open it again."""
        self._file.close()

    def __enter__(self) -> HeldImage:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
