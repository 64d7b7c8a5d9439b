"""An image in a format that QEMU reads, as a sync's source: tracked while an export of it runs, and only then.

The tracker of such an export works on the raw file that a daemon shows (`images/formats.py`). What that file is tells
nothing later: its times and its inode are made up anew each time. So nothing of the tracking is believed once the
export has ended, and the next sync compares.
"""

from __future__ import annotations

from .source import HeldImage, ImageSource


class ServedImage(ImageSource):
    """The tracker's files are named after the image and stand beside it, as for a raw one."""

    def tracked(self) -> bool:
        """Whether an export runs."""
        control = self.ask()
        if control is None:
            self.state = "untracked"
            return False
        control.close()
        return True

    def hold(self) -> HeldImage | None:
        """Never: without the daemon there is nothing that its state could be held against."""
        return None
