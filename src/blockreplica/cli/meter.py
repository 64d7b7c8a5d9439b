"""Shows on stderr how far long work is: a bar with rate and ETA on a terminal, a line now and then elsewhere.

Work that is done within half a second shows nothing, and does not pay for loading the bar.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from threading import Lock
from typing import TYPE_CHECKING

import click

from .. import units
from ..progress import Progress

if TYPE_CHECKING:
    from rich.progress import Progress as Bar
    from rich.progress import TaskID

PATIENCE_S = 0.5
LINE_EVERY_S = 10.0


class Meter(Progress):
    """Base of both: counts, and draws no more often than every `every` seconds. Safe from several threads."""

    def __init__(self, every: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.what, self.total, self.done = "", 0, 0
        self._every, self._clock, self._lock = every, clock, Lock()
        self._began = self._due = 0.0

    def start(self, what: str, total: int) -> None:
        """A stage begins; the one before it is over."""
        with self._lock:
            self.finish()
            self.what, self.total, self.done = what, total, 0
            self._began = self._clock()
            self._due = self._began + self._every

    def advance(self, count: int) -> None:
        """`count` more bytes."""
        with self._lock:
            self.done += count
            now = self._clock()
            if now >= self._due:
                self._due = now + self._every
                self.draw(now - self._began)

    def note(self, text: str) -> None:
        """A sentence of its own line."""
        click.echo(text, err=True)

    def draw(self, seconds: float) -> None:
        """Show the stage, which has lasted so long."""

    def finish(self) -> None:
        """Take away what is shown."""

    def __enter__(self) -> Meter:
        return self

    def __exit__(self, *_: object) -> None:
        self.finish()


class Lines(Meter):
    """A line every ten seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(LINE_EVERY_S, clock)

    def draw(self, seconds: float) -> None:
        """How much, of what, how fast, how long yet."""
        rate = self.done / seconds if seconds > 0 else 0
        parts = [units.format_size(self.done)]
        if self.total:
            parts[0] += f" of {units.format_size(self.total)} ({100 * self.done // self.total} %)"
        parts.append(f"{units.format_size(int(rate))}/s")
        if self.total > self.done and rate:
            parts.append(f"{units.format_duration((self.total - self.done) / rate)} left")
        click.echo(f"{self.what}: {', '.join(parts)}", err=True)


class Live(Meter):
    """A bar that is redrawn."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(PATIENCE_S, clock)
        self._bar: Bar | None = None
        self._task: TaskID | None = None

    def draw(self, seconds: float) -> None:
        """Open the bar, or move it on."""
        if self._bar is None or self._task is None:
            self._every = 0.1
            self._bar = make_bar()
            self._bar.start()
            self._task = self._bar.add_task(self.what, total=self.total or None)
        self._bar.update(self._task, completed=self.done)

    def note(self, text: str) -> None:
        """A line above the bar."""
        if self._bar is None:
            super().note(text)
        else:
            self._bar.console.print(text, markup=False, highlight=False)

    def finish(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.stop()
        self._bar, self._task, self._every = None, None, PATIENCE_S


def make_bar() -> Bar:
    """A bar on stderr with amount, rate and time left, which vanishes when it is stopped."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
    from rich.progress import Progress as Bar

    shown = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(binary_units=True))
    pace = (TransferSpeedColumn(), TimeRemainingColumn())
    return Bar(*shown, *pace, console=Console(stderr=True), transient=True)


def meter() -> Meter:
    """The one that fits stderr."""
    return Live() if sys.stderr.isatty() else Lines()
