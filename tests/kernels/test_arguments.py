"""What the kernels refuse, before they touch anything; the same words from every implementation."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

TOO_MUCH = 2**64


def _blend(**other: Any) -> list[Any]:
    """Arguments of `blend_blocks` that fit, but for `other`."""
    fitting = {
        "fd": -1, "size": 4096, "block_size": 4096, "blocks": bytes(8), "rows": bytes(24), "data": b"x",
        "granules": bytes(8), "old": bytearray(4096), "new": bytearray(4096), "marks": bytearray(1),
        "before": bytearray(16), "after": bytearray(16),
    }  # fmt: skip
    return list((fitting | other).values())


#: Kernel, positional arguments, keyword arguments, what the ValueError says. The descriptors are never reached.
REFUSED: list[tuple[str, list[Any], dict[str, Any], str]] = [
    ("checksum_buffer", [b"x", 0, bytearray(16)], {}, "block_size must be at least 1"),
    ("checksum_buffer", [b"x" * 9, 8, bytearray(31)], {}, "16 bytes for each block"),
    ("checksum_buffer", [b"x", 1, bytearray(16)], {"seed": TOO_MUCH}, "seed must be"),
    ("checksum_buffer", [b"x", 1, bytearray(16)], {"seed": -1}, "seed must be"),
    ("checksum_buffer", [b"x", 1, bytearray(16)], {"threads": -1}, "threads must be"),
    ("checksum_buffer", [b"x", TOO_MUCH, bytearray(16)], {}, "block_size must be"),
    ("checksum_file", [-1, -1, 1, 1, bytearray(16)], {}, "offset must be"),
    ("checksum_file", [-1, 2**63, 1, 1, bytearray(16)], {}, "offset must be"),
    ("checksum_file", [-1, 0, 2**63, 1, bytearray(16)], {}, "length must be"),
    ("checksum_file", [-1, 2**63 - 1, 1, 1, bytearray(16)], {}, "end below"),
    ("checksum_file", [-1, 0, 1, 0, bytearray(16)], {}, "block_size must be from 1 to 64 MiB"),
    ("checksum_file", [-1, 0, 1, (64 << 20) + 1, bytearray(16)], {}, "block_size must be from 1 to 64 MiB"),
    ("checksum_file", [-1, 0, 17, 16, bytearray(31)], {}, "16 bytes for each block"),
    ("copy_file", [-1, -1, 0, 17, 16, bytearray(31)], {}, "16 bytes for each block"),
    ("copy_file", [-1, -1, 2**62, 2**62, 16, bytearray(31)], {}, "end below"),
    ("compare_files", [-1, -1, 0, 17, 16, 16, bytearray(31), bytearray(1)], {}, "16 bytes for each block"),
    ("compare_files", [-1, -1, 0, 16, 16, 0, bytearray(16), bytearray(1)], {}, "granule must divide"),
    ("compare_files", [-1, -1, 0, 16, 16, 5, bytearray(16), bytearray(1)], {}, "granule must divide"),
    ("compare_files", [-1, -1, 0, 16, 16, 1, bytearray(16), bytearray(1)], {}, "a bit for each granule"),
    ("compare_tables", [bytes(16), bytes(32), bytearray(1)], {}, "one length"),
    ("compare_tables", [bytes(17), bytes(17), bytearray(1)], {}, "16 bytes an entry"),
    ("compare_tables", [bytes(144), bytes(144), bytearray(1)], {}, "a bit for each entry"),
    ("compare_buffers", [bytes(16), bytes(32), 1, bytearray(9)], {}, "one length"),
    ("compare_buffers", [bytes(16), bytes(16), 0, bytearray(9)], {}, "granule must be at least 1"),
    ("compare_buffers", [bytes(17), bytes(17), 2, bytearray(1)], {}, "a bit for each granule"),
    ("find_zeros", [bytes(16), 0, bytearray(9)], {}, "granule must be at least 1"),
    ("find_zeros", [bytes(17), 2, bytearray(1)], {}, "a bit for each granule"),
    ("blend_blocks", _blend(size=2**63), {}, "size must be"),
    ("blend_blocks", _blend(size=2**63 - 1), {}, "the disk must end below"),
    ("blend_blocks", _blend(block_size=0), {}, "block_size must be a multiple"),
    ("blend_blocks", _blend(block_size=6000), {}, "block_size must be a multiple"),
    ("blend_blocks", _blend(block_size=1 << 27), {}, "block_size must be a multiple"),
    ("blend_blocks", _blend(blocks=bytes(9)), {}, "numbers of 8 bytes"),
    ("blend_blocks", _blend(granules=bytes(7)), {}, "numbers of 8 bytes"),
    ("blend_blocks", _blend(rows=bytes(25)), {}, "rows must be of 24 bytes"),
    ("blend_blocks", _blend(old=bytearray(4095)), {}, "4096 bytes for each granule"),
    ("blend_blocks", _blend(new=bytearray(4095)), {}, "4096 bytes for each granule"),
    ("blend_blocks", _blend(marks=bytearray()), {}, "a byte for each granule"),
    ("blend_blocks", _blend(before=bytearray(15)), {}, "16 bytes for each block"),
    ("blend_blocks", _blend(after=bytearray(15)), {}, "16 bytes for each block"),
    ("blend_blocks", _blend(), {"seed": TOO_MUCH}, "seed must be"),
    ("crc32c", [b"", 2**32], {}, "value must be"),
    ("crc32c_rows", [bytes(9), 2, 1, bytearray(99)], {}, "whole rows"),
    ("crc32c_rows", [bytes(9), 0, 0, bytearray(99)], {}, "whole rows"),
    ("crc32c_rows", [bytes(8), 2, 3, bytearray(99)], {}, "length must be at most"),
    ("crc32c_rows", [bytes(8), 2, 1, bytearray(15)], {}, "4 bytes for each row"),
    ("crc32c_rows", [bytes(8), 2, 1, bytearray(16)], {"value": 2**32}, "value must be"),
    ("pack_table", [bytes(4080), 0, 2**32, bytearray(4096)], {}, "key must be"),
    ("pack_table", [bytes(4080), 0, 0, bytearray(4095)], {}, "whole pages"),
    ("pack_table", [bytes(4080), 0, 0, bytearray(8192)], {}, "4080 bytes for each page"),
    ("unpack_table", [bytes(4095), 0, 0, bytearray(4080)], {}, "whole pages"),
    ("unpack_table", [bytes(4096), 0, 0, bytearray(4096)], {}, "4080 bytes for each page"),
    ("unpack_table", [bytes(4096), -1, 0, bytearray(4080)], {}, "first_page must be"),
    ("punch_hole", [-1, -1, 1], {}, "offset must be"),
    ("punch_hole", [-1, 0, 2**63], {}, "length must be"),
]


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: f"{case[0]}: {case[3]}")
def test_what_is_out_of_range_is_a_value_error_that_names_kernel_and_argument(
    kernel: SimpleNamespace, case: tuple[str, list[Any], dict[str, Any], str]
) -> None:
    name, arguments, options, text = case
    before = [bytes(argument) for argument in arguments if isinstance(argument, bytearray)]
    with pytest.raises(ValueError, match=text) as caught:
        getattr(kernel, name)(*arguments, **options)
    assert str(caught.value).startswith(f"{name}: ")
    assert [bytes(argument) for argument in arguments if isinstance(argument, bytearray)] == before


def test_buffers_that_may_not_be_written_are_refused(kernel: SimpleNamespace) -> None:
    for call in (
        lambda: kernel.checksum_buffer(b"x", 1, bytes(16)),
        lambda: kernel.bitmap_set(bytes(1), 0, 1),
        lambda: kernel.find_zeros(b"x", 1, bytes(1)),
        lambda: kernel.coalesce(bytes(32), bytes(64)),
    ):
        with pytest.raises(BufferError):
            call()


def test_arguments_go_by_name_too(kernel: SimpleNamespace) -> None:
    out = bytearray(16)
    kernel.checksum_buffer(out=out, data=b"x", block_size=1)
    assert any(out)
    assert kernel.crc32c(value=0, data=b"123456789") == kernel.crc32c(b"123456789", 0)


def test_calls_that_do_not_fit_the_signature_are_type_errors(kernel: SimpleNamespace) -> None:
    for call in (
        lambda: kernel.crc32c(),
        lambda: kernel.crc32c(b"", 0, 0),
        lambda: kernel.crc32c(b"", data=b""),
        lambda: kernel.crc32c(b"", seed=0),
        lambda: kernel.crc32c(b"", "1"),
        lambda: kernel.bitmap_set(bytearray(1), 0.0, 1),
        lambda: kernel.checksum_buffer(b"x", 1, bytearray(16), 7),
    ):
        with pytest.raises(TypeError):
            call()


def test_refused_calls_let_go_of_their_buffers(kernel: SimpleNamespace) -> None:
    out = bytearray(15)
    with pytest.raises(ValueError, match="16 bytes for each block"):
        kernel.checksum_buffer(b"x", 1, out)
    out.append(0)  # a bytearray that a buffer still holds cannot grow
    kernel.checksum_buffer(b"x", 1, out)
    out.append(0)
