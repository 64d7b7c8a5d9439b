"""Commands as processes of their own, which end with whoever began them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Start = Callable[..., "subprocess.Popen[str]"]


@contextmanager
def commands() -> Iterator[Start]:
    """`start(word…)` begins `blockreplica word…`; those that have not ended by then are killed at the end."""
    begun: list[subprocess.Popen[str]] = []

    def start(*words: object) -> subprocess.Popen[str]:
        line = [sys.executable, "-m", "blockreplica", *map(str, words)]
        begun.append(subprocess.Popen(line, stdout=-1, stderr=-1, text=True))
        return begun[-1]

    try:
        yield start
    finally:
        for one in begun:
            if one.poll() is None:
                one.kill()
            one.communicate()
