"""Progress on stderr: sparse lines where no terminal is, a bar where one is."""

from __future__ import annotations

import io
import threading

import pytest

from blockreplica.cli import meter
from blockreplica.units import MIB


class Terminal(io.StringIO):
    """Text that believes that it is shown."""

    def isatty(self) -> bool:
        return True


class Clock:
    """Time that stands still unless told."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_line_every_ten_seconds_says_how_much_how_fast_and_how_long_yet(
    capsys: pytest.CaptureFixture[str],
) -> None:
    clock = Clock()
    lines = meter.Lines(clock)
    lines.start("scanning", 100 * MIB)
    clock.now += 9.9
    lines.advance(10 * MIB)
    assert capsys.readouterr().err == ""
    clock.now += 0.1
    lines.advance(10 * MIB)
    lines.advance(1)
    assert capsys.readouterr() == ("", "scanning: 20 MiB of 100 MiB (20 %), 2 MiB/s, 40 s left\n")


def test_work_of_unknown_length_has_a_rate_and_no_end(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    lines = meter.Lines(clock)
    lines.start("applying", 0)
    clock.now += 10
    lines.advance(20 * MIB)
    assert capsys.readouterr().err == "applying: 20 MiB, 2 MiB/s\n"


def test_a_new_stage_counts_from_zero(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    lines = meter.Lines(clock)
    lines.start("first", 10 * MIB)
    lines.advance(10 * MIB)
    lines.start("second", 40 * MIB)
    clock.now += 10
    lines.advance(10 * MIB)
    assert capsys.readouterr().err.startswith("second: 10 MiB of 40 MiB (25 %)")


def test_counting_from_several_threads_loses_nothing() -> None:
    lines = meter.Lines(Clock())
    lines.start("work", 0)

    def work() -> None:
        for _ in range(2000):
            lines.advance(1)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert lines.done == 8000


def test_notes_go_to_stderr_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    with meter.Lines(Clock()) as lines:
        lines.note("same file system")
    assert capsys.readouterr() == ("", "same file system\n")


def test_a_terminal_gets_a_bar_only_for_work_that_lasts(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = Terminal()
    monkeypatch.setattr("sys.stderr", shown)
    clock = Clock()
    live = meter.Live(clock)
    live.start("copying", 100)
    live.advance(50)
    assert shown.getvalue() == ""
    clock.now += 1
    live.advance(10)
    live.finish()
    assert "copying" in shown.getvalue()
