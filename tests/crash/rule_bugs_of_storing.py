"""What `rule_mutations.py` plants against the rules of storing: 13 to 21 of the hard cases."""

from __future__ import annotations

from planting import Mutation, named

READER = "src/blockreplica/stores/point_reader.py"
DIRECTORY = "tests/stores/test_directory.py"
BETWEEN = named(DIRECTORY, "rule_15_what_is_overwritten_between_two_steps")
IMAGE = """        got = self.image.pread_into(view, offset)
        view[got:] = bytes(len(view) - got)
        self.overlay(view, offset)

    def overlay(self, view: memoryview, offset: int) -> list[Extent]:
        \"\"\"Lay before-images over what was read from `disk.img` at `offset` *before* this call; returns where.\"\"\"
"""
TABLE = """        entries, unknown = self._read_table(first, count)
        known = np.full(count, TRUSTED, np.uint8)
        for blocks in unknown:
            known[blocks.start - first : blocks.stop - first] = DAMAGED
            page = blocks.start // PAGE_ENTRIES
            low, high = (ENTRY_SIZE * (block - page * PAGE_ENTRIES) for block in (blocks.start, blocks.stop))
            place = ENTRY_SIZE * (blocks.start - first)
            entries[place : place + high - low] = self._table.raw(page)[low:high]
"""
LOOK = "        self._refresh()\n"

STORING = [
    Mutation("15: the undo index before the image", READER, IMAGE + LOOK, LOOK + IMAGE, BETWEEN),
    Mutation("15: the undo index before the table", READER, TABLE + LOOK, LOOK + TABLE, BETWEEN),
    Mutation(
        "15: what came to an index before its end is not seen",
        READER,
        "            if self._indexes:\n                self._indexes[-1].refresh()\n            self._indexes.append",
        "            self._indexes.append",
        named(DIRECTORY, "rule_15_an_epoch_that_ends_while"),
    ),
]
