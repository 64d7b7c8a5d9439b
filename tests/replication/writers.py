"""Writers whose every state can be told: what a point holds of them must be the state after some write of theirs.

A writer owns a region of an image. Its write number n goes to a place that n decides, then n goes into the region's
first eight bytes. So a region's content must be that after writes 1 to n, with the counter or, of write n alone, not
yet the counter: one instant, or the point is wrong (invariant 4).
"""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from blockreplica.tracking import TrackedImage

HEAD = 8


def change(seed: int, number: int, length: int) -> tuple[int, bytes]:
    """Write `number` of a writer with this seed: where in its region, and what (now and then zeros)."""
    rng = random.Random(seed << 32 | number)
    most = rng.choice([1, 300, 4096, 20_000])
    offset = rng.randrange(HEAD, length)
    data = rng.choice([1, 2, 3, 0]) and rng.randbytes(most)
    return offset, (data or bytes(most))[: length - offset]


class Writer:
    """A thread that writes into region [start, start + length) of a tracked image until it is told to stop."""

    def __init__(self, image: TrackedImage, start: int, length: int, seed: int, first: bytes) -> None:
        self.image, self.start, self.length, self.seed, self.first = image, start, length, seed, first
        self.begun = self.done = 0
        self.failure: BaseException | None = None

    def step(self) -> None:
        """One write and its counter."""
        self.begun += 1
        offset, data = change(self.seed, self.begun, self.length)
        if any(data):
            self.image.pwrite(data, self.start + offset)
        else:
            self.image.zero(self.start + offset, len(data))
        self.image.pwrite(self.begun.to_bytes(HEAD, "little"), self.start)
        self.done = self.begun

    def state(self, content: bytes) -> int:
        """The number of the last write that an image's content holds; AssertionError when it is no state of ours."""
        region = content[self.start : self.start + self.length]
        counter = int.from_bytes(region[:HEAD], "little") if region[:HEAD] != self.first[:HEAD] else 0
        assert counter <= self.begun, "a counter that was never written"
        model = bytearray(self.first)
        for number in range(1, counter + 1):
            self._apply(model, number)
        model[:HEAD] = region[:HEAD]
        if model != region:
            self._apply(model, counter + 1)
        assert model == region, f"no state of the writer: not that after write {counter}, nor with the next one"
        return counter

    def _apply(self, model: bytearray, number: int) -> None:
        offset, data = change(self.seed, number, self.length)
        model[offset : offset + len(data)] = data


@contextmanager
def writing(
    image: TrackedImage, path: Path, *, count: int = 2, most: int = 3000, seed: int = 1
) -> Iterator[list[Writer]]:
    """Threads that write all the time, each into a region of its own, until the block ends."""
    print("seed", seed)
    content = path.read_bytes()
    length = len(content) // count
    writers = [
        Writer(image, at * length, length, seed * 100 + at, content[at * length : (at + 1) * length])
        for at in range(count)
    ]
    stop = threading.Event()

    def run(writer: Writer) -> None:
        try:
            while not stop.is_set() and writer.done < most:
                writer.step()
        except BaseException as error:
            writer.failure = error

    threads = [threading.Thread(target=run, args=(writer,)) for writer in writers]
    for thread in threads:
        thread.start()
    try:
        yield writers
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert [writer.failure for writer in writers] == [None] * count


def counts(writers: Sequence[Writer]) -> tuple[list[int], list[int]]:
    """Answered and begun writes of each."""
    return [writer.done for writer in writers], [writer.begun for writer in writers]


def in_time(writers: Sequence[Writer], content: bytes, before: list[int], after: list[int]) -> None:
    """The content is one instant of each writer: all answered `before` are in it, none begun `after`."""
    for writer, low, high in zip(writers, before, after, strict=True):
        assert low <= writer.state(content) <= high
