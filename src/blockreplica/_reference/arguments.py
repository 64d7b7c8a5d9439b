"""The checks that every kernel makes before it touches anything, with the words that the C core uses."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from typing_extensions import Buffer

    Bytes = npt.NDArray[np.uint8]

ENTRY_SIZE = 16
MOST_BLOCK_SIZE = 64 << 20


def check(sound: bool, kernel: str, text: str) -> None:
    """ValueError unless `sound`."""
    if not sound:
        raise ValueError(f"{kernel}: {text}")


def number(kernel: str, name: str, value: Any, bits: int = 64) -> int:
    """`value` as an int from 0 to 2**bits - 1."""
    whole = operator.index(value)
    check(0 <= whole < 1 << bits, kernel, f"{name} must be from 0 to 2**{bits} - 1")
    return whole


def readable(data: Buffer) -> Bytes:
    """The bytes of a contiguous buffer."""
    import numpy as np

    return np.frombuffer(data, np.uint8)


def writable(data: Buffer) -> Bytes:
    """The bytes of a contiguous buffer that may be written."""
    array = readable(data)
    if not array.flags.writeable:
        raise BufferError("Object is not writable.")
    return array


def count_of(length: int, size: int) -> int:
    """How many pieces of `size` bytes `length` bytes make; the last may be short."""
    return -(-length // size)


def check_extent(kernel: str, offset: int, length: int) -> tuple[int, int]:
    """An extent of a file."""
    offset, length = number(kernel, "offset", offset, 63), number(kernel, "length", length, 63)
    check(offset + length < 1 << 63, kernel, "the extent must end below 2**63")
    return offset, length


def check_blocks(kernel: str, length: int, block_size: int, out: Bytes) -> None:
    """Block size and table of a file kernel."""
    check(0 < block_size <= MOST_BLOCK_SIZE, kernel, "block_size must be from 1 to 64 MiB")
    room = len(out) // ENTRY_SIZE
    check(room >= count_of(length, block_size), kernel, "out must have 16 bytes for each block")


def check_bits(kernel: str, bitmap: Bytes, pieces: int, text: str) -> None:
    """Whether a bitmap has a bit for each piece."""
    check(len(bitmap) >= count_of(pieces, 8), kernel, text)
