"""The rows of an undo index have the layout that docs/store.md gives."""

from __future__ import annotations

import numpy as np

from blockreplica.stores.undo_index import CHECKSUM, ROW, ROW_SIZE


def test_both_kinds_of_rows_are_as_long_as_the_header_says_and_end_alike() -> None:
    row, checksum = np.dtype(ROW), np.dtype(CHECKSUM)
    assert row.itemsize == checksum.itemsize == ROW_SIZE
    assert row.fields is not None
    assert checksum.fields is not None
    assert [row.fields[name][1] for name in ("kind", "crc")] == [24, 28]
    assert [checksum.fields[name][1] for name in ("block", "checksum", "kind", "crc")] == [0, 8, 24, 28]
