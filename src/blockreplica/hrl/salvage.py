"""Finds what an unclosed, cut or damaged log still holds: the blocks up to the first place where nothing fits.

How the search works, and why its work is bounded, is told in native/hrl_salvage.c.
"""

from __future__ import annotations

import struct

import msgspec

from .. import kernels
from ..errors import translated
from ..files import File
from .format import HEADER_SIZE

#: Bytes gone through in one call, so that Ctrl-C is heard in between.
STEP = 256 << 20
_STATE = struct.Struct("<6Q")


class Salvaged(msgspec.Struct, frozen=True):
    """The good part of a log: where it ends, its blocks, its last block (0: none), its entries."""

    end: int
    blocks: int
    last: int
    entries: int


def salvage(file: File, raw: bytes, limit: int) -> Salvaged:
    """Look for the blocks of the log with the header `raw` in the first `limit` bytes of `file`."""
    state = bytearray(_STATE.pack(HEADER_SIZE, 0, 0, 0, HEADER_SIZE, 0))
    with translated(file.path, "reading"):
        while not kernels.hrl_salvage(file.fileno(), raw, limit, STEP, state):
            pass
    end, blocks, last, entries, _, _ = _STATE.unpack(state)
    return Salvaged(end, blocks, last, entries)
