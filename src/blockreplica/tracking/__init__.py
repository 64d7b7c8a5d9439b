"""What has changed: images whose writes are recorded as they happen, and how others ask for it."""

from __future__ import annotations

from .consistent import ConsistentCut, NotesFile, with_cut
from .cursors import CutNotes
from .group import cut_together
from .image import TrackedImage, track
from .names import image_path
from .source import ImageSource, require_image
from .types import Cut, EpochRecord, Identity, LogMode, TrackingStatus, same_log

__all__ = [
    "ConsistentCut",
    "Cut",
    "CutNotes",
    "EpochRecord",
    "Identity",
    "ImageSource",
    "LogMode",
    "NotesFile",
    "TrackedImage",
    "TrackingStatus",
    "cut_together",
    "image_path",
    "require_image",
    "same_log",
    "track",
    "with_cut",
]
