"""The kernels that everything above works with: the C extension, or its Python twin where that is asked for.

What each one does, with shapes, units and errors, is told in `_reference/`, which is both the twin and the
definition. The C core serves unless BLOCKREPLICA_KERNELS=reference says otherwise; what was asked for by name
and cannot be had is an ImportError, never a silent fallback. A C core that was built without xxhash.h lacks the
checksum kernels: those then come from the twin.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

#: Rows of `read_extents` and `write_extents`.
EXTENTS = "24-byte rows: file offset u64, length u64, buffer offset u64, little-endian"
#: Rows of `coalesce`; operation 1 writes, 2 zeroes.
ENTRIES = "32-byte rows: offset u64, length u64, source u64, log u32, operation u32, little-endian"

#: Whether the C core serves.
NATIVE: bool
#: The CPU variant in use ("scalar", "sse42", "avx2", ...; "python": the twin); BLOCKREPLICA_CPU forces one.
VARIANT: str

_CHECKSUMS = ("blend_blocks", "checksum_buffer", "checksum_file", "copy_file", "compare_files")
_OTHERS = (
    "bitmap_clear",
    "bitmap_count",
    "bitmap_merge",
    "bitmap_next",
    "bitmap_runs",
    "bitmap_set",
    "byte_sum",
    "coalesce",
    "compare_buffers",
    "compare_tables",
    "crc32c",
    "crc32c_rows",
    "find_zeros",
    "hrl_block",
    "hrl_encode",
    "hrl_read",
    "hrl_salvage",
    "hrl_walk",
    "pack_table",
    "punch_hole",
    "read_extents",
    "unpack_table",
    "write_extents",
)

if TYPE_CHECKING:
    from ._native import Overlay as Overlay
    from ._native import Tracker as Tracker
    from ._native import TrackerFailure as TrackerFailure
    from ._native import bitmap_clear as bitmap_clear
    from ._native import bitmap_count as bitmap_count
    from ._native import bitmap_merge as bitmap_merge
    from ._native import bitmap_next as bitmap_next
    from ._native import bitmap_runs as bitmap_runs
    from ._native import bitmap_set as bitmap_set
    from ._native import blend_blocks as blend_blocks
    from ._native import byte_sum as byte_sum
    from ._native import checksum_buffer as checksum_buffer
    from ._native import checksum_file as checksum_file
    from ._native import coalesce as coalesce
    from ._native import compare_buffers as compare_buffers
    from ._native import compare_files as compare_files
    from ._native import compare_tables as compare_tables
    from ._native import copy_file as copy_file
    from ._native import crc32c as crc32c
    from ._native import crc32c_rows as crc32c_rows
    from ._native import find_zeros as find_zeros
    from ._native import hrl_block as hrl_block
    from ._native import hrl_encode as hrl_encode
    from ._native import hrl_read as hrl_read
    from ._native import hrl_salvage as hrl_salvage
    from ._native import hrl_walk as hrl_walk
    from ._native import pack_table as pack_table
    from ._native import punch_hole as punch_hole
    from ._native import read_extents as read_extents
    from ._native import unpack_table as unpack_table
    from ._native import write_extents as write_extents


def _select_variant(name: str | None) -> str:
    from . import _native

    if name:
        try:
            _native.select_variant(name)
        except ValueError as error:
            known = ", ".join(_native.variants())
            raise ImportError(f"BLOCKREPLICA_CPU: {error}; this CPU runs {known}") from None
    return _native.variant()


def _load(implementation: str, cpu: str | None) -> tuple[bool, str, dict[str, object]]:
    """NATIVE, VARIANT and the functions for the environment's two words."""
    if implementation not in ("native", "reference"):
        raise ImportError(f"BLOCKREPLICA_KERNELS={implementation!r}: wanted native or reference")
    if implementation == "reference":
        from . import _reference

        if cpu not in (None, "", "python"):
            raise ImportError(f"BLOCKREPLICA_CPU={cpu!r}: the reference kernels run on 'python' alone")
        return False, "python", {name: getattr(_reference, name) for name in _CHECKSUMS + _OTHERS}
    from . import _native

    functions: dict[str, object] = {name: getattr(_native, name) for name in _OTHERS}
    if hasattr(_native, "checksum_buffer"):
        functions |= {name: getattr(_native, name) for name in _CHECKSUMS}
    else:
        from . import _reference

        functions |= {name: getattr(_reference, name) for name in _CHECKSUMS}
    return True, _select_variant(cpu), functions


NATIVE, VARIANT, _functions = _load(
    os.environ.get("BLOCKREPLICA_KERNELS") or "native", os.environ.get("BLOCKREPLICA_CPU")
)
globals().update(_functions)


def __getattr__(name: str) -> Any:
    """What has no twin among the kernels: it comes from the C core, whichever serve."""
    if name not in ("Overlay", "Tracker", "TrackerFailure"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from . import _native

    return getattr(_native, name)
