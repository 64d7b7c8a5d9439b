"""Rule 12: what a sync that died had frozen is merged back, and the guest goes on writing meanwhile."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from signal import SIGKILL
from typing import Any

import pytest

from blockreplica.tracking.qemu import machine

from . import mortal
from .daemon import Daemon, needs_qemu
from .test_machine import protected, same

pytestmark = needs_qemu


def test_rule_12_what_is_written_between_the_merging_and_the_cut_is_in_the_delta(
    daemon: Callable[..., Daemon], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bitmap that was merged into is the active one again, although the dead sync's cut had ended it."""
    qemu = daemon("raw")
    vm = protected(qemu, tmp_path)
    qemu.io("write -P 1 0 64k")
    assert subprocess.run([sys.executable, mortal.__file__, "vm", "while reading"]).returncode == -SIGKILL
    cut = machine.Machine.cut

    def write_and_cut(self: machine.Machine) -> Any:
        qemu.io("write -P 2 1M 64k")
        return cut(self)

    monkeypatch.setattr(machine.Machine, "cut", write_and_cut)
    assert same(vm, qemu).action == "delta"
