"""Cutting several images at one instant, whatever process tracks each: correctness.md (4).

    prepare all, in the order of their paths   each maps the epoch word, a file of eight zero bytes
    store 1 in the word                        the instant: every write that begins after it is of the next epoch
    finish all                                 each waits for its writes of the old epoch, no write waits for us

Images that no tracker has open are held meanwhile, so that none begins to write them. When a tracker goes away in
between, its image was not cut with the others, and all is done again.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from uuid import uuid4

from ..errors import BusyError, NoSpaceError
from ..files import FILES, File
from .control import Control, GoneError
from .source import HeldImage, ImageSource
from .types import Cut

_TRIES, _PAUSE_S = 40, 0.05
_ELSEWHERE = Path("/dev/shm")


def cut_together(sources: Sequence[ImageSource]) -> list[Cut | None]:
    """Cut all `sources` at one instant; None for each that is not tracked."""
    if len(sources) < 2:
        return [source.cut() for source in sources]
    for _ in range(_TRIES):
        cuts = _cut_once(sources)
        if cuts is not None:
            return cuts
        time.sleep(_PAUSE_S)
    raise BusyError("the images could not be cut together: their trackers come and go, or do not answer; try again")


def _cut_once(sources: Sequence[ImageSource]) -> list[Cut | None] | None:
    order = sorted(range(len(sources)), key=lambda index: sources[index].path)
    with ExitStack() as stack:
        word = stack.enter_context(_word(sources[order[0]].names.word(uuid4().hex[:12])))
        members: dict[int, Control | HeldImage] = {}
        try:
            for index in order:
                source = sources[index]
                if not source.tracked():
                    continue
                member = _member(source, word.path)
                if member is None:
                    return None
                stack.callback(member.close)
                members[index] = member
            instant = word.set()
            return [_finish(members.get(index), instant) for index in range(len(sources))]
        except GoneError:
            return None


def _member(source: ImageSource, word: Path) -> Control | HeldImage | None:
    """The image, ready for the instant; None: try again."""
    control = source.ask()
    if control is None:
        return source.hold()
    try:
        control.prepare(word)
    except BaseException:
        control.close()
        raise
    return control


def _finish(member: Control | HeldImage | None, instant: float) -> Cut | None:
    if member is None:
        return None
    if isinstance(member, HeldImage):
        return member.cut(instant)
    cut = member.finish()
    return Cut(cut.tracking_id, cut.epoch, cut.size, instant, cut.chain)


class _Word:
    """The epoch word: eight bytes that trackers map. We write them, for a store into a mapping may find no room."""

    def __init__(self, file: File) -> None:
        self.path, self._file = file.path, file

    def set(self) -> float:
        """Make the cut; returns its time. Only the first byte changes, so the store can't be seen half done."""
        self._file.pwrite(b"\1", 0)
        return time.time()


@contextmanager
def _word(path: Path) -> Iterator[_Word]:
    with ExitStack() as stack:
        yield _Word(_made(path, stack))


def _made(path: Path, stack: ExitStack) -> File:
    """A word in the image's folder, else, where that is full, in memory."""
    for place in (path, _ELSEWHERE / path.name):
        stack.callback(FILES.unlink, place)
        try:
            file = stack.enter_context(FILES.open(place, write=True, exclusive=True))
            file.pwrite(bytes(8), 0)
        except NoSpaceError:
            if place != path:
                raise
        else:
            return file
    raise AssertionError("unreachable")
