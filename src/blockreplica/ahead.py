"""Two things at once: the next step is taken in a thread while the result of the last is in use, or work is finished
aside while the caller goes on.

Worth it where the time goes into kernels or system calls. `concurrent.futures` does it too, and takes longer to load
than what a small sync gains by it.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from contextlib import suppress
from queue import Empty, SimpleQueue
from threading import Event, Thread
from typing import TypeVar

T = TypeVar("T")


class Aside:
    """`work`, being done in a thread."""

    def __init__(self, work: Callable[[], None]) -> None:
        self._error: BaseException | None = None
        self._done = Event()
        self._thread = Thread(target=self._run, args=(work,), name="aside", daemon=True)
        self._thread.start()

    @property
    def done(self) -> bool:
        """Whether it is, however it ended."""
        return self._done.is_set()

    def wait(self) -> None:
        """Until it is done; raises what it raised."""
        self._done.wait()
        if self._error is not None:
            raise self._error

    def end(self) -> None:
        """Until it is done, however it ends. Ctrl-C meanwhile is raised only then."""
        _outlast(self._done)
        self._thread.join()

    def _run(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:  # whatever it is, it belongs to the one who waits
            self._error = error
        finally:
            self._done.set()


def ahead(steps: Iterable[Callable[[], T]], *, most: int = 1) -> Generator[T]:
    """The results of `steps`, in order; what one raises is raised in its place, and nothing is taken behind it.

    At the `most` so many steps are taken ahead of the one whose result was asked for last, one at a time. When the
    iterator is closed, no step is being taken any more.
    """
    asked: SimpleQueue[Callable[[], T] | None] = SimpleQueue()
    done: SimpleQueue[tuple[list[T], BaseException | None]] = SimpleQueue()
    worker = Aside(lambda: _work(asked, done))
    try:
        waiting = 0
        for step in steps:
            asked.put(step)
            waiting += 1
            if waiting > most:
                yield _result(done)
                waiting -= 1
        for _ in range(waiting):
            yield _result(done)
    finally:
        _drop(asked)
        asked.put(None)
        worker.end()


def _drop(asked: SimpleQueue[Callable[[], T] | None]) -> None:
    """Let nothing be taken that has not begun."""
    with suppress(Empty):
        while True:
            asked.get_nowait()


def _work(asked: SimpleQueue[Callable[[], T] | None], done: SimpleQueue[tuple[list[T], BaseException | None]]) -> None:
    while (step := asked.get()) is not None:
        try:
            done.put(([step()], None))
        except BaseException as error:  # whatever it is, it belongs to the one who asked
            done.put(([], error))
            return


def _outlast(done: Event) -> None:
    """Not by `Thread.join`: once a signal has interrupted one, Python 3.11 takes the thread for ended."""
    interrupt: BaseException | None = None
    while not done.is_set():
        try:
            done.wait()
        except BaseException as error:
            interrupt = error
    if interrupt is not None:
        raise interrupt


def _result(done: SimpleQueue[tuple[list[T], BaseException | None]]) -> T:
    result, error = done.get()
    if error is not None:
        raise error
    return result[0]
