"""Working ahead by some steps, and what happens when a step or its user fails."""

from __future__ import annotations

import signal
import threading
from contextlib import closing
from functools import partial

import pytest

from blockreplica.ahead import Aside, ahead


def test_the_next_step_is_taken_while_a_result_is_in_use_and_no_further_one() -> None:
    begun = [threading.Event() for _ in range(4)]

    def step(index: int) -> int:
        begun[index].set()
        return index

    with closing(ahead(partial(step, index) for index in range(4))) as results:
        assert next(results) == 0
        assert begun[1].wait(10)
        assert not begun[2].is_set()
        assert list(results) == [1, 2, 3]


def test_as_many_steps_as_wished_are_taken_ahead_and_no_more() -> None:
    begun = [threading.Event() for _ in range(6)]

    def step(index: int) -> int:
        begun[index].set()
        return index

    with closing(ahead((partial(step, index) for index in range(6)), most=3)) as results:
        assert next(results) == 0
        assert begun[3].wait(10)
        assert not begun[4].is_set()
        assert list(results) == [1, 2, 3, 4, 5]


def test_what_has_not_begun_when_it_is_closed_never_does() -> None:
    begun, running, free = list[int](), threading.Event(), threading.Event()

    def step(index: int) -> None:
        begun.append(index)
        if index:
            running.set()
            free.wait(10)

    results = ahead((partial(step, index) for index in range(9)), most=4)
    next(results)
    assert running.wait(10)
    threading.Timer(0.05, free.set).start()
    results.close()
    assert begun == [0, 1]


def test_what_a_step_raises_comes_in_its_place_and_ends_it() -> None:
    taken = []

    def step(index: int) -> int:
        taken.append(index)
        if index == 1:
            raise OSError(5, "broken")
        return index

    results = ahead(partial(step, index) for index in range(4))
    assert next(results) == 0
    with pytest.raises(OSError, match="broken"):
        next(results)
    assert list(results) == []
    assert taken == [0, 1]


def test_once_closed_no_step_is_being_taken() -> None:
    running, free = threading.Event(), threading.Event()

    def step(index: int) -> int:
        if index:
            running.set()
            free.wait(10)
            running.clear()
        return index

    results = ahead(partial(step, index) for index in range(3))
    assert next(results) == 0
    assert running.wait(10)
    threading.Timer(0.05, free.set).start()
    results.close()
    assert not running.is_set()
    assert not [thread for thread in threading.enumerate() if thread.name == "aside"]


def test_nothing_to_do_gives_nothing() -> None:
    assert list(ahead([])) == []


def test_work_aside_is_done_once_it_was_waited_for_and_its_failure_is_told() -> None:
    done = list[int]()
    Aside(partial(done.append, 1)).wait()
    assert done == [1]

    def fails() -> None:
        raise ValueError("aside")

    aside = Aside(fails)
    aside.end()
    for _ in range(2):
        with pytest.raises(ValueError, match="aside"):
            aside.wait()


class AlarmError(Exception):
    pass


def test_work_aside_is_waited_for_to_its_end_though_a_signal_interrupted_an_earlier_wait() -> None:
    """Ctrl-C while a stage lands: its files must not be closed under it."""
    go, done = threading.Event(), list[int]()

    def work() -> None:
        go.wait()
        done.append(1)

    def ring(*_: object) -> None:
        raise AlarmError

    before = signal.signal(signal.SIGALRM, ring)
    try:
        aside = Aside(work)
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        with pytest.raises(AlarmError):
            aside.wait()
        threading.Timer(0.05, go.set).start()
        aside.end()
        assert done == [1]
    finally:
        go.set()
        signal.signal(signal.SIGALRM, before)
