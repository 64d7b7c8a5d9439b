"""Which format an image has, when nobody says: what the tracker knows of it counts for more than what it looks like.

A guest can write anything into its raw disk, also the header of a qcow2 that names a file of this host. So a disk that
is tracked as a raw one stays one, whatever it begins with.
"""

from __future__ import annotations

from ..errors import NotFoundError, RefusedError
from ..files import Files
from ..images.names import RAW, detect, named_format
from .names import Names
from .state import read_state


def known_format(names: Names, files: Files) -> str:
    """The format of an image; RefusedError where name, content and tracking do not agree."""
    if not _tracked_as_raw(names, files):
        return detect(names.image)
    named = named_format(names.image)
    if named != RAW:
        raise RefusedError(f"{names.image}: by its name it is {named}, and it is tracked as a raw disk; say --format "
                           f"{RAW} or --format {named}")  # fmt: skip
    return RAW


def _tracked_as_raw(names: Names, files: Files) -> bool:
    try:
        with files.open(names.tracking) as file:
            state = read_state(file, names.tracking)
    except NotFoundError:
        return False
    return state is not None and not state.contained
