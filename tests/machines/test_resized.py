"""Disks of a running QEMU that change their size: a point has the size that the disk has at the cut."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from blockreplica.errors import StorageError
from blockreplica.tracking.qemu import fleece, machine

from .daemon import Daemon, needs_qemu
from .test_machine import KIB, MIB, protected, same

pytestmark = needs_qemu
Start = Callable[..., Daemon]


@pytest.mark.parametrize("size", [12 * MIB, 6 * MIB])
def test_a_disk_that_is_resized_while_its_cut_is_prepared_is_replicated_at_its_new_size(
    daemon: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """A point has the size that the disk has at the cut, and bitmaps and scratch image are of that size."""
    qemu = daemon("raw", "raw")
    vm = protected(qemu, tmp_path)
    qemu.io("write -P 5 1M 64k")
    prepare, resized = fleece.Fleece.prepare, list[int]()

    def resized_then_prepared(self: fleece.Fleece, disks: Any) -> None:
        if not resized:
            resize(qemu, size)
            resized.append(size)
        prepare(self, disks)

    monkeypatch.setattr(fleece.Fleece, "prepare", resized_then_prepared)
    point = same(vm, qemu).point
    assert vm.replica.base.find(point).disks[0].size == size
    assert same(vm, qemu).action == "delta"


def test_qemu_does_not_resize_a_disk_once_its_cut_is_prepared(
    daemon: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the test above rests on."""
    qemu = daemon("raw")
    vm = protected(qemu, tmp_path)
    qemu.io("write -P 5 1M 64k")
    cut = machine.Machine.cut

    def resized_then_cut(self: machine.Machine) -> Any:
        with pytest.raises(StorageError, match="in use"):
            resize(qemu, 12 * MIB)
        return cut(self)

    monkeypatch.setattr(machine.Machine, "cut", resized_then_cut)
    assert same(vm, qemu).action == "delta"
    assert vm.points()[-1].disks[0].size == 8 * MIB


def resize(qemu: Daemon, size: int) -> None:
    """While an export that may write is there, QEMU does not resize."""
    with qemu.monitor() as qmp:
        qmp("block-export-del", id="guest0")
        try:
            qmp("block_resize", node_name="d0", size=size)
        finally:
            qmp("block-export-add", type="nbd", id="guest0", node_name="d0", name="guest0", writable=True)


def test_a_disk_that_grew_is_replicated_at_its_new_size(daemon: Start, tmp_path: Path) -> None:
    qemu = daemon("raw")
    vm = protected(qemu, tmp_path)
    resize(qemu, 12 * MIB)
    qemu.io("write -P 1 8M 64k")
    result = same(vm, qemu)
    assert vm.points()[-1].disks[0].size == 12 * MIB
    assert (result.action, result.bytes_sent) == ("delta", 64 * KIB)
