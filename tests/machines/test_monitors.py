"""Two relationships of one disk of a QEMU, each through a monitor of its own: what their syncs are to one another."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import blockreplica as br
from blockreplica.errors import BusyError, StorageError
from blockreplica.tracking.qemu import fleece, machine
from blockreplica.tracking.qemu.monitor import refused

from .daemon import Daemon, needs_qemu

pytestmark = needs_qemu
Start = Callable[..., Daemon]
CONFLICT = (
    "Permission conflict on node 'd0': permissions 'write' are both required by node '{}' (uses node 'd0' as 'file' "
    "child) and unshared by node '{}' (uses node 'd0' as 'file' child)."
)


def test_invariant_4_a_sync_between_the_cut_and_the_point_of_another_leaves_both_right(
    daemon: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    qemu = daemon("raw")
    one = br.protect(qemu.address(), tmp_path / "store", name="one")
    other = qemu.address(f"&scratch={tmp_path}").replace("q.sock", "w.sock")
    two = br.protect(other, tmp_path / "other", name="two")
    qemu.io("write -P 1 0 64k")
    cut = machine.Machine.cut

    def cut_and_meanwhile(self: machine.Machine) -> Any:
        cuts = cut(self)
        monkeypatch.undo()
        qemu.io("write -P 2 0 32k")
        assert two.sync().action == "delta"
        qemu.io("write -P 3 0 64k")
        return cuts

    before = qemu.content()
    monkeypatch.setattr(machine.Machine, "cut", cut_and_meanwhile)
    assert one.sync().action == "delta"
    for vm, wanted in ((one, before), (two, b"\2" * 32768 + before[32768:])):
        vm.replica.recover(None, tmp_path / f"{vm.name}.img")
        assert (tmp_path / f"{vm.name}.img").read_bytes() == wanted
    assert {one.sync().action, two.sync().action} == {"delta"}


def test_a_sync_beside_one_that_began_qemus_nbd_server_is_busy_and_not_refused(
    daemon: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be tried again: a server of somebody else's would be there the next time too."""
    qemu = daemon("raw")
    with qemu.monitor() as qmp:
        qmp("nbd-server-stop")
    one, two = (
        br.protect(f"qmp:{qemu.folder}/{socket}.sock?node=d0", tmp_path / socket, name=socket) for socket in "qw"
    )
    check, said = fleece.Fleece.check, list[str]()

    def meanwhile(self: fleece.Fleece) -> None:
        check(self)
        monkeypatch.undo()
        with pytest.raises(BusyError, match="sync again") as raised:
            two.sync()
        said.append(str(raised.value))

    monkeypatch.setattr(fleece.Fleece, "check", meanwhile)
    assert one.resync().action == "resync"
    assert len(said) == 1
    assert two.sync().action == "delta"


@pytest.mark.parametrize(
    ("first", "second", "kind"),
    [("br19520b8e7e62-0-cbw", "bred2e274a2ac5-0-cbw", BusyError), ("mirror-top", "#block123", StorageError)],
)
def test_two_filters_of_ours_over_one_disk_at_once_are_busy_and_those_of_others_an_error(
    first: str, second: str, kind: type[Exception]
) -> None:
    """What QEMU 7.2 says when one sync puts its filter over a disk while another's comes or goes."""
    assert type(refused("q.sock: transaction", CONFLICT.format(first, second))) is kind
