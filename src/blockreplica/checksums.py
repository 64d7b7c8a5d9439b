"""The checksum table of one replica disk: sixteen bytes a block, in pages that carry their own CRC.

A page is 4096 bytes: 255 entries, the page's number, a CRC-32C keyed by the replica, so that a page of another file,
another place or half a write is recognised. A block of zeros has an entry of sixteen zero bytes and a page of such
blocks is a page of zeros: the table of a sparse disk is sparse.

A bad page means *unknown*, never *unchanged*: `read` hands out its blocks as unknown, and who must know raises. What
such a page still says can be proved by content: an entry that is the checksum of what the block holds was not damaged,
and entries computed from content that fit the page's CRC are those it had. So one flipped bit costs no checksum.
Entries are XXH3-128 in canonical (big-endian) form, seeded for each relationship.
"""

from __future__ import annotations

from array import array
from itertools import pairwise

from . import kernels
from .arrays import Array, Bools, Bytes, np
from .errors import TableError
from .files import File

ENTRY_SIZE = 16
PAGE_SIZE = 4096
PAGE_ENTRIES = 255
_PAGE_BYTES = PAGE_ENTRIES * ENTRY_SIZE


def block_count(size: int, block_size: int) -> int:
    """Blocks that a disk of `size` bytes has, the last one perhaps shorter."""
    return -(-size // block_size)


def proved(raw: bytes, page: int, key: int, computed: bytearray) -> Bools:
    """Which entries of a bad page are, beyond doubt, those `computed` from content (all 255; zeros where none is)."""
    same: Bools = np.frombuffer(raw[:_PAGE_BYTES], "V16") == np.frombuffer(computed, "V16")
    packed = bytearray(PAGE_SIZE)
    kernels.pack_table(computed, page, key, packed)
    if packed[-4:] == raw[-4:]:
        same[:] = True
    return same


class ChecksumTable:
    """The table in its file. Writes gather in memory, page by page, until `flush`."""

    def __init__(self, file: File, key: int) -> None:
        self.file = file
        self.key = key
        self._pages: dict[int, bytearray] = {}
        self._changed: set[int] = set()

    def read(self, first: int, count: int) -> tuple[bytearray, list[range]]:
        """The entries of blocks [first, first + count) as they stand, and the block ranges that are unknown.

        Unknown entries read as zeros.
        """
        first_page, last_page = first // PAGE_ENTRIES, -(-(first + count) // PAGE_ENTRIES)
        pages = bytearray((last_page - first_page) * PAGE_SIZE)
        self.file.pread_into(pages, first_page * PAGE_SIZE)
        entries = bytearray((last_page - first_page) * _PAGE_BYTES)
        bad = kernels.unpack_table(pages, first_page, self.key, entries)
        for page in self._pages.keys() & range(first_page, last_page):
            at = (page - first_page) * _PAGE_BYTES
            entries[at : at + _PAGE_BYTES] = self._pages[page]
        start = (first - first_page * PAGE_ENTRIES) * ENTRY_SIZE
        unknown = [
            range(max(first, page * PAGE_ENTRIES), min(first + count, (page + 1) * PAGE_ENTRIES))
            for page in (first_page + index for index in bad)
            if page not in self._pages
        ]
        return entries[start : start + count * ENTRY_SIZE], unknown

    def raw(self, page: int) -> bytes:
        """A page as it stands in the file, right or not, whole; zeros behind the end."""
        return self.file.pread(PAGE_SIZE, page * PAGE_SIZE).ljust(PAGE_SIZE, b"\0")

    def get(self, block: int) -> bytes:
        """One entry; TableError when its page is bad."""
        at = block % PAGE_ENTRIES * ENTRY_SIZE
        return bytes(self._page(block // PAGE_ENTRIES)[at : at + ENTRY_SIZE])

    def entries(self, blocks: Array) -> Bytes:
        """The (n, 16) entries of ascending `blocks`; TableError when a page of them is bad."""
        pages = _pages(blocks)
        self._load([page for page, _ in pages])
        entries = np.empty((len(blocks), ENTRY_SIZE), np.uint8)
        for page, part in pages:
            entries[part] = np.frombuffer(self._pages[page], np.uint8).reshape(-1, ENTRY_SIZE)[
                blocks[part] % PAGE_ENTRIES
            ]
        return entries

    @property
    def held(self) -> int:
        """Pages in memory, until `flush`."""
        return len(self._pages)

    def put(self, block: int, entry: bytes | memoryview) -> None:
        """Set one entry; TableError when the page around it is bad, for its other entries would be lost."""
        page, at = block // PAGE_ENTRIES, block % PAGE_ENTRIES * ENTRY_SIZE
        self._page(page)[at : at + ENTRY_SIZE] = entry
        self._changed.add(page)

    def put_many(self, blocks: Array, entries: Bytes) -> None:
        """Set the (n, 16) entries of ascending `blocks`; TableError as in `put`."""
        pages = _pages(blocks)
        self._load([page for page, _ in pages])
        for page, part in pages:
            held = np.frombuffer(self._pages[page], np.uint8).reshape(-1, ENTRY_SIZE)
            held[blocks[part] % PAGE_ENTRIES] = entries[part]
            self._changed.add(page)

    def write(self, first: int, entries: bytearray | memoryview) -> None:
        """Set the entries of consecutive blocks, straight into the file where they fill whole pages."""
        view = memoryview(entries)
        block, count = first, len(view) // ENTRY_SIZE
        while count:
            inside = min(count, PAGE_ENTRIES - block % PAGE_ENTRIES)
            if inside == PAGE_ENTRIES:
                inside = count // PAGE_ENTRIES * PAGE_ENTRIES
                self._write_pages(block // PAGE_ENTRIES, view[: inside * ENTRY_SIZE])
            else:
                page, at = block // PAGE_ENTRIES, block % PAGE_ENTRIES * ENTRY_SIZE
                self._page(page)[at : at + inside * ENTRY_SIZE] = view[: inside * ENTRY_SIZE]
                self._changed.add(page)
            view, block, count = view[inside * ENTRY_SIZE :], block + inside, count - inside

    def _load(self, pages: list[int]) -> None:
        """Read these pages in one go; TableError when one of them is bad."""
        wanted = [page for page in pages if page not in self._pages]
        raw = bytearray(len(wanted) * PAGE_SIZE)
        self.file.read_extents(_page_rows(wanted), raw)
        for at, page in enumerate(wanted):
            self._take(page, memoryview(raw)[at * PAGE_SIZE : (at + 1) * PAGE_SIZE])

    def flush(self) -> None:
        """Write what was gathered; not durable before `file.sync()`."""
        numbers = sorted(self._changed)
        raw = bytearray(len(numbers) * PAGE_SIZE)
        for at, page in enumerate(numbers):
            place = memoryview(raw)[at * PAGE_SIZE : (at + 1) * PAGE_SIZE]
            kernels.pack_table(self._pages[page], page, self.key, place)
        self.file.write_extents(_page_rows(numbers), raw)
        self._pages.clear()
        self._changed.clear()

    def missing(self, blocks: int) -> range:
        """The pages of a table of `blocks` entries that the file ends before."""
        return range(self.file.size() // PAGE_SIZE, -(-blocks // PAGE_ENTRIES))

    def resize(self, blocks: int) -> None:
        """Let the table end behind `blocks` entries."""
        self.flush()
        pages = -(-blocks // PAGE_ENTRIES)
        if blocks % PAGE_ENTRIES and self.file.size() > (pages - 1) * PAGE_SIZE:
            tail = bytes((PAGE_ENTRIES - blocks % PAGE_ENTRIES) * ENTRY_SIZE)
            self.write(blocks, bytearray(tail))
            self.flush()
        self.file.truncate(pages * PAGE_SIZE)

    def _page(self, page: int) -> bytearray:
        held = self._pages.get(page)
        if held is not None:
            return held
        raw = bytearray(PAGE_SIZE)
        self.file.pread_into(raw, page * PAGE_SIZE)
        return self._take(page, raw)

    def _take(self, page: int, raw: bytearray | memoryview) -> bytearray:
        entries = bytearray(_PAGE_BYTES)
        if kernels.unpack_table(raw, page, self.key, entries):
            raise TableError.at(
                self.file.path, page * PAGE_SIZE, "checksum page", wanted=f"page {page} with its CRC",
                got="a page that fails it", hint="run a resync: it takes these blocks as unknown",
            )  # fmt: skip
        self._pages[page] = entries
        return entries

    def _write_pages(self, first_page: int, entries: bytearray | memoryview) -> None:
        count = len(entries) // _PAGE_BYTES
        pages = bytearray(count * PAGE_SIZE)
        kernels.pack_table(entries, first_page, self.key, pages)
        for page in self._pages.keys() & range(first_page, first_page + count):
            del self._pages[page]
            self._changed.discard(page)
        write_sparse(self.file, pages, first_page * PAGE_SIZE)


def _pages(blocks: Array) -> list[tuple[int, slice]]:
    """The pages of ascending blocks, and which of the blocks lie in each."""
    pages = blocks // PAGE_ENTRIES
    edges = [*np.flatnonzero(np.diff(pages, prepend=-1)).tolist(), len(blocks)]
    return [(int(pages[low]), slice(low, high)) for low, high in pairwise(edges)]


def _page_rows(pages: list[int]) -> array[int]:
    """EXTENTS rows of table pages that stand one behind the other in a buffer."""
    rows = array("Q")
    for at, page in enumerate(pages):
        rows.extend((page * PAGE_SIZE, PAGE_SIZE, at * PAGE_SIZE))
    return rows


def write_sparse(file: File, pages: bytearray, offset: int) -> None:
    """Write table pages, runs of zero pages as holes."""
    zeros = bytearray(-(-len(pages) // PAGE_SIZE // 8) + 1)
    count = len(pages) // PAGE_SIZE
    if not kernels.find_zeros(pages, PAGE_SIZE, zeros):
        file.pwrite(pages, offset)
        return
    end = offset + len(pages)
    if file.size() < end:
        file.truncate(end)
    at, view = 0, memoryview(pages)
    while at < count:
        run = kernels.bitmap_next(zeros, at, count)
        data_end = run[0] if run else count
        if data_end > at:
            file.pwrite(view[at * PAGE_SIZE : data_end * PAGE_SIZE], offset + at * PAGE_SIZE)
        if run:
            file.zero(offset + run[0] * PAGE_SIZE, run[1] * PAGE_SIZE)
        at = run[0] + run[1] if run else count
