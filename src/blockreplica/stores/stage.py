"""Changes of one disk that were planned, gathered until they are made durable and written together.

Two stages take turns: while one is being published and written aside, the next gathers. A plan starts from what the
image holds, so no block may be in both, nor twice in one.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from ..ahead import Aside
from ..arrays import Array, np
from ..files import Files
from .blend import BATCH_BYTES, Blend

STAGE_BYTES = 8 << 20


class Stage:
    """`plans`, without their old content, and the `blocks` that they change."""

    def __init__(self) -> None:
        self.plans: list[Blend] = []
        self.blocks: set[int] = set()
        self._bytes = 0
        self._room, self._used = bytearray(), 0  # kept: fresh memory for each batch costs more than the work in it

    @property
    def full(self) -> bool:
        """Whether it is time to write it."""
        return self._bytes >= STAGE_BYTES

    def room(self, length: int) -> memoryview | None:
        """Where new content may be put together, and stays if all of it is new; None when there is none left."""
        if self._used + length > len(self._room):
            if self._used:
                return None
            self._room = bytearray(STAGE_BYTES + max(length, BATCH_BYTES))
        return memoryview(self._room)[self._used : self._used + length]

    def add(self, plan: Blend) -> None:
        """Take in a plan."""
        self.plans.append(msgspec.structs.replace(plan, old=plan.old[:0]))
        self.blocks.update(plan.blocks.tolist())
        self._bytes += plan.new.nbytes
        if np.may_share_memory(plan.new, np.frombuffer(self._room, np.uint8)):
            self._used += plan.new.nbytes

    def clear(self) -> None:
        """Once all of it is written."""
        self.plans.clear()
        self.blocks.clear()
        self._bytes = self._used = 0


class Stages:
    """The stage that gathers, and the one that is landing.

    Of each stage: `publishing` is called, what it returns is called aside, then `write` for each plan, aside too; and
    `landed` for each once all that is done, by the caller's thread. `sync` is called aside behind a stage that others
    follow, for the fsync at the end then has less to wait for; nothing relies on it.
    """

    def __init__(
        self, files: Files, *, publishing: Callable[[], Callable[[], None]], write: Callable[[Blend], None],
        landed: Callable[[Blend], None], sync: Callable[[], None],
    ) -> None:  # fmt: skip
        self._files, self._publishing, self._write, self._landed, self._sync = files, publishing, write, landed, sync
        self._stage, self._landing = Stage(), Stage()
        self._aside: Aside | None = None

    def make_way(self, blocks: Array) -> None:
        """Before changes of `blocks` are planned: let the image hold all earlier ones of them."""
        some = blocks.tolist()
        if not (self._stage.blocks.isdisjoint(some) and self._landing.blocks.isdisjoint(some)):
            self.flush()
        elif self._stage.full:
            self._launch(last=False)

    def room(self, length: int) -> memoryview:
        """Where a plan may put new content together; it stays if all of that is new."""
        room = self._stage.room(length)
        if room is None:
            self._launch(last=False)
            room = self._stage.room(length)
            assert room is not None
        return room

    def add(self, plan: Blend) -> None:
        """Take in a plan, whose before-images are saved."""
        self._stage.add(plan)

    def hasten(self) -> None:
        """Let what has gathered begin to land, unless an earlier stage is still at it: then it goes on gathering."""
        if self._aside is None or self._aside.done:
            self._launch(last=False)

    def flush(self) -> None:
        """Let all of it land."""
        self._launch()
        self._land()

    def end(self) -> None:
        """Let what is landing end, however it ends; what only gathered is dropped."""
        if self._aside is not None:
            self._aside.end()

    def _launch(self, *, last: bool = True) -> None:
        self._land()
        if not self._stage.plans:
            return
        publish = self._publishing()
        self._stage, self._landing = self._landing, self._stage

        def work() -> None:
            publish()
            for plan in self._landing.plans:
                self._write(plan)
            if not last:
                self._sync()

        self._aside = self._files.aside(work)

    def _land(self) -> None:
        if self._aside is None:
            return
        self._aside.wait()
        self._aside = None
        for plan in self._landing.plans:
            self._landed(plan)
        self._landing.clear()
