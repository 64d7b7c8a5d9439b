"""Run as a program: a sync that is killed by SIGKILL at a named step."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

import blockreplica as br
from blockreplica.replication.machine import MachineDisk
from blockreplica.stores.session import Session
from blockreplica.tracking.qemu.fleece import Fleece
from blockreplica.tracking.qemu.machine import Machine

STEPS: dict[str, tuple[Any, str, bool]] = {
    "before the cut": (Machine, "cut", True),
    "after the cut": (Machine, "cut", False),
    "while reading": (Fleece, "open", False),
    "before the commit": (Session, "commit", True),
    "after the commit": (Session, "commit", False),
    "before the acknowledgement": (MachineDisk, "acknowledge", True),
    "before the clean-up": (Machine, "close", True),
}


def main(name: str, step: str) -> None:
    """Sync `name` and die at `step`."""
    where, method, before = STEPS[step]
    original = getattr(where, method)

    def dying(*arguments: object, **named: object) -> None:
        if not before:
            original(*arguments, **named)
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(where, method, dying)
    br.relationship(name).sync()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
