"""Becomes the program that serves an image which a daemon shows, so that the daemon is that program's child.

    python -m blockreplica.images.becoming FORMAT IMAGE PLACE PROGRAM ARGUMENT…

The daemon ends with its parent, however that ends, also when nobody is left who began it all. PROGRAM is told the
daemon's pid behind its arguments, as `served-by=PID`. A failure is told as JSON behind `MARK`.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from .. import errors
from ..errors import BlockReplicaError, StorageError, from_os_error
from .formats import ending_with_parent, started, tidy

MARK = "becoming a server failed: "


def command(fmt: str, path: Path, place: Path, program: Sequence[str], *, outlive: bool) -> list[str]:
    """What starts `program` with the daemon. `outlive`: neither ends with the thread that begins it."""
    guard = [] if outlive else ending_with_parent()
    return [*guard, sys.executable, "-m", __name__, fmt, str(path), str(place), *program]


def failure(told: str) -> BlockReplicaError | None:
    """The typed error for what stands in a log, if that is one of ours."""
    for line in told.splitlines():
        if line.startswith(MARK):
            found = json.loads(line[len(MARK) :])
            kind = getattr(errors, found["error"], StorageError)
            return kind(found["text"]) if issubclass(kind, BlockReplicaError) else None
    return None


def main(words: Sequence[str]) -> int:
    """Returns only when it failed."""
    fmt, path, place, *program = words
    try:
        process = started(Path(path), fmt, Path(place), writable=True)
        try:
            os.execv(program[0], [*program, f"served-by={process.pid}"])
        except OSError as error:
            process.terminate()
            process.wait()
            raise from_os_error(error, program[0], "starting") from error
    except BlockReplicaError as error:
        tidy(Path(place))
        told = json.dumps({"error": type(error).__name__, "text": str(error)})
        print(f"{MARK}{told}", file=sys.stderr, flush=True)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
