"""An image in a format that QEMU reads, as a sync's source: tracked while an export of it runs, and only then.

The tracker of such an export works on the raw file that a daemon shows (`images/formats.py`). What that file is tells
nothing later: its times and its inode are made up anew each time. So the tracker records what the *container* is, once
the daemon has ended: the same identity later proves that nobody wrote it since. Everything else (a daemon or a tracker
that was killed, a container that was written or resized) is settled by the next export alone, which can read the
content; until then the image counts as untracked, and a sync compares all of it.
"""

from __future__ import annotations

import contextlib

from .control import Control, GoneError
from .source import HeldImage, ImageSource
from .types import LogMode


class ServedImage(ImageSource):
    """The tracker's files are named after the image and stand beside it, as for a raw one."""

    contained = True

    def tracked(self) -> bool:
        """Whether an export runs, or the last one ended in order and nobody wrote the container since."""
        self.state = self._look()
        return self.state in ("tracking", "closed")

    def hold(self) -> HeldImage | None:
        """As of `ImageSource`, but nothing is settled: that takes the content."""
        return self._hold_closed()

    def _have_log(self, mode: LogMode) -> None:
        """Only an export can change it; a mode that it has not is asked for again at the next acknowledgement."""
        control = Control.connect(self.names, self._files)
        if control is not None:
            with control, contextlib.suppress(GoneError):
                control.log(mode)

    def _settle_ctime(self, *, ignore: bool) -> None:
        """Only an export can settle; as for the log."""

    def _distrust(self) -> None:
        """Without its tracking file nothing is believed of the image."""
        self._files.unlink(self.names.tracking)
        self._files.sync_folder(self.names.folder)
