"""How machines are named and reached, and what is said when they are not."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from signal import SIGKILL

import pytest

import blockreplica as br
from blockreplica.errors import BusyError, NotFoundError, UsageError
from blockreplica.tracking.qemu import Address, monitor

from .daemon import Daemon, die_with_parent, make_disk, needs_qemu

KIB, MIB = 1 << 10, 1 << 20
pytestmark = needs_qemu
Start = Callable[..., Daemon]


def test_a_monitor_that_somebody_else_has_is_named_busy(
    daemon: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    qemu = daemon("raw")
    vm = br.protect(qemu.address(), tmp_path / "store", name="vm")
    monkeypatch.setattr(monitor, "CONNECT_S", 0.3)
    other = monitor.Monitor(qemu.qmp)
    try:
        with pytest.raises(BusyError, match="somebody else has this monitor"):
            vm.sync()
    finally:
        other.close()
    assert vm.sync().action == "delta"


def test_a_wrong_node_or_socket_is_said_with_what_there_is(daemon: Start, tmp_path: Path) -> None:
    qemu = daemon("raw", "raw")
    with pytest.raises(NotFoundError, match=r"no node sda; it has: d0, d0-file, d1, d1-file"):
        br.protect(f"qmp:{qemu.qmp}?node=sda", tmp_path / "store", name="vm")
    with pytest.raises(NotFoundError):
        br.protect(f"qmp:{qemu.folder}/none?node=d0", tmp_path / "store", name="vm")
    qemu.stop(SIGKILL)
    with pytest.raises(NotFoundError, match="is the machine running"):
        br.protect(qemu.address(), tmp_path / "store", name="vm")


@pytest.mark.parametrize(
    "word", ["qmp:/s", "qmp:?node=a", "qmp:/s?node=", "qmp:/s?node=a&nod=b", "qmp:/s?node=a,a", "qmp:/s?node"]
)
def test_addresses_that_can_not_be_meant_are_refused(tmp_path: Path, word: str) -> None:
    with pytest.raises(UsageError):
        br.protect(word, tmp_path / "store", name="vm")


def test_files_and_machines_are_not_one_relationship(tmp_path: Path) -> None:
    (tmp_path / "vm.img").write_bytes(bytes(4096))
    with pytest.raises(UsageError, match="protect them separately"):
        br.protect([tmp_path / "vm.img", "qmp:/s?node=a"], tmp_path / "store", name="vm")


def test_what_the_catalog_keeps_is_what_was_said() -> None:
    said = "qmp:/run/a b.sock?node=d0,d1&scratch=/var/tmp&nbd=/run/n"
    assert Address.parse(str(Address.parse(said))) == Address.parse(said)
    assert Address.joined(Address.parse(said).each()) == Address.parse(said)


@pytest.mark.skipif(shutil.which("qemu-system-x86_64") is None, reason="needs qemu-system-x86_64 (qemu-system-x86)")
def test_a_whole_qemu_with_an_nbd_server_of_ours(tmp_path: Path, short_folder: Path) -> None:
    disk, qmp = make_disk(short_folder / "vm.qcow2", "qcow2", 8 * MIB), short_folder / "qmp"
    command = ["qemu-system-x86_64", "-machine", "none,accel=tcg", "-nodefaults", "-display", "none"]
    command += ["-qmp", f"unix:{qmp},server=on,wait=off"]
    command += ["-blockdev", f"driver=file,node-name=file,filename={disk}"]
    command += ["-blockdev", "driver=qcow2,node-name=sys,file=file"]
    process = subprocess.Popen(command, preexec_fn=die_with_parent)
    try:
        while not qmp.exists():
            assert process.poll() is None
            time.sleep(0.01)
        vm = br.protect(f"qmp:{qmp}?node=sys", tmp_path / "store", name="vm")
        with contextlib.closing(monitor.Monitor(qmp)) as command_line:
            command_line("human-monitor-command", command_line='qemu-io sys "write -P 5 1M 64k"')
        result = vm.sync()
        assert (result.action, result.bytes_sent) == ("delta", 64 * KIB)
        assert vm.replica.read(None, MIB, 64 * KIB) == b"\5" * 64 * KIB
        assert sorted(path.name for path in short_folder.iterdir()) == ["qmp", "vm.qcow2"]
    finally:
        process.terminate()
        process.wait()
