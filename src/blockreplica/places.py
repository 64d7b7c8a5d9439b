"""Where this host keeps what belongs to none of its images: the catalog, marks of trackers whose disk is broken,
and notes of cuts of disks that are only reached through QEMU."""

from __future__ import annotations

import os
from pathlib import Path


def state_folder() -> Path:
    """$BLOCKREPLICA_STATE, else blockreplica in $XDG_STATE_HOME, else ~/.local/state/blockreplica."""
    own = os.environ.get("BLOCKREPLICA_STATE")
    if own:
        return Path(own)
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "blockreplica"


def consistent_folder() -> Path:
    """Where a sync of disks that no file of ours stands beside notes its application-consistent cuts."""
    return state_folder() / "consistent"


def marks_folder() -> Path:
    """Where a tracker says that its image is suspect, when its own folder takes no file any more."""
    return state_folder() / "suspect"
