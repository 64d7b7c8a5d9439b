"""Which format a file has, and what the formats are called: for those who need none of QEMU's programs.

A guest may write anything to a raw disk, also what looks like a header that names a file of this host. So the content
alone never decides what a file is: its name or its user must say so too, and what was once tracked as a raw disk stays
one.
"""

from __future__ import annotations

import os
from pathlib import Path

from ..errors import RefusedError, UsageError
from ..files import FILES

RAW = "raw"
#: What QEMU calls it, and how such files are named.
SUFFIXES = {
    ".qcow2": "qcow2", ".vhdx": "vhdx", ".vhd": "vpc", ".vpc": "vpc", ".vmdk": "vmdk", ".vdi": "vdi",
}  # fmt: skip
FORMATS = ("qcow2", "vhdx", "vpc", "vmdk", "vdi")
_HEAD, _SECTOR, _VHD = 512, 512, b"conectix"
_MAGICS = (
    ("qcow2", 0, b"QFI\xfb"), ("vhdx", 0, b"vhdxfile"), ("vpc", 0, _VHD), ("vdi", 64, b"\x7f\x10\xda\xbe"),
    ("vmdk", 0, b"KDMV"), ("vmdk", 0, b"COWD"), ("vmdk", 0, b"# Disk DescriptorFile"),
)  # fmt: skip


def detect(path: Path) -> str:
    """The format of a file by its name *and* how it begins; RefusedError when the two differ.

    QEMU is not asked: what a guest wrote into a raw disk may look like a header, and QEMU would open what that names.
    """
    if not path.is_file():
        return RAW
    named = named_format(path)
    found = _begins_as(path, named)
    if found != named:
        raise RefusedError(f"{path}: by its name it is {named}, by its content {found}; say --format {found} or "
                           f"--format {named}")  # fmt: skip
    return found


def named_format(path: Path) -> str:
    """The format that the name of a file tells."""
    return SUFFIXES.get(path.suffix.lower(), RAW)


def _begins_as(path: Path, named: str) -> str:
    with FILES.open(path) as file:
        head, size = file.pread(_HEAD, 0), file.size()
        if named == "vpc" and file.pread(len(_VHD), max(0, size - _SECTOR)) == _VHD:
            return "vpc"  # one of fixed size has its header behind the disk
    return next((fmt for fmt, at, magic in _MAGICS if head[at : at + len(magic)] == magic), RAW)


def checked_format(fmt: str) -> str:
    """A format as a user names it; UsageError for one that there is not."""
    named = {"vhd": "vpc"}.get(fmt, fmt)
    if named not in (RAW, *FORMATS):
        raise UsageError(f"format {fmt!r}: wanted {RAW}, {', '.join(FORMATS)}")
    return named


def shows(place: Path, fd: int | None = None) -> bool:
    """Whether the content of an image is there, in an open file: not the empty one over which it appears, nor what a
    daemon left that died."""
    try:
        found = os.stat(place) if fd is None else os.fstat(fd)
        return found.st_dev != os.stat(place.parent).st_dev
    except OSError:
        return False
