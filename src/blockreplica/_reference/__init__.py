"""The Python twin of every kernel: the definition that the C core is tested against, and its stand-in.

Only kernels.py imports it. numpy and xxhash are loaded when a kernel first needs them.
"""

from __future__ import annotations

from .bitmaps import bitmap_clear, bitmap_count, bitmap_merge, bitmap_next, bitmap_runs, bitmap_set
from .blend import blend_blocks
from .buffers import checksum_buffer, compare_buffers, compare_tables, find_zeros
from .extents import punch_hole, read_extents, write_extents
from .files import checksum_file, compare_files, copy_file
from .hrl import hrl_block, hrl_encode, hrl_read, hrl_salvage, hrl_walk
from .logs import coalesce
from .sums import byte_sum, crc32c, crc32c_rows, pack_table, unpack_table

__all__ = [
    "bitmap_clear",
    "bitmap_count",
    "bitmap_merge",
    "bitmap_next",
    "bitmap_runs",
    "bitmap_set",
    "blend_blocks",
    "byte_sum",
    "checksum_buffer",
    "checksum_file",
    "coalesce",
    "compare_buffers",
    "compare_files",
    "compare_tables",
    "copy_file",
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
]
