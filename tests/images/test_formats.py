"""Images in the formats that QEMU reads: replicated as raw disks, sparse ones, with qemu-img as the judge."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

import blockreplica as br
from blockreplica.errors import BusyError, NotFoundError, RefusedError, UsageError
from blockreplica.images import formats
from blockreplica.images.formats import opened_as_raw

KIB, MIB = 1 << 10, 1 << 20
TOOLS = ("qemu-storage-daemon", "qemu-img", "qemu-io")
MISSING = [tool for tool in TOOLS if shutil.which(tool) is None] + (["/dev/fuse"] * (not os.path.exists("/dev/fuse")))
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"needs {', '.join(MISSING)} (qemu-system-common, qemu-utils)")


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the catalog of this test is, and its mounts: other tests that run meanwhile have theirs elsewhere."""
    monkeypatch.setenv("BLOCKREPLICA_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def made(path: Path, fmt: str, *more: str) -> Path:
    """An image of 24 MiB: noise, zeros that are written, and nothing."""
    raw = path.with_name("source")
    with raw.open("wb") as file:
        file.write(random.Random(1).randbytes(3 * MIB))
        file.write(bytes(2 * MIB))
        file.seek(9 * MIB + 4096)
        file.write(random.Random(2).randbytes(MIB))
        file.truncate(24 * MIB)
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", fmt, *more, raw, path], check=True)
    raw.unlink()
    return path


def change(path: Path, fmt: str, *commands: str) -> None:
    """Write to an image as QEMU would."""
    words = [word for command in commands for word in ("-c", command)]
    subprocess.run(["qemu-io", "-f", fmt, *words, path], check=True, stdout=subprocess.DEVNULL)


def compare(path: Path, fmt: str, recovered: Path) -> None:
    """qemu-img finds no difference."""
    said = subprocess.run(["qemu-img", "compare", "-f", fmt, "-F", "raw", path, recovered], capture_output=True)
    assert said.returncode == 0, said.stdout + said.stderr


def daemons(image: Path) -> list[int]:
    """The storage daemons that show this image."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            command = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if b"qemu-storage-daemon" in command and b'"id": "raw"' in command and os.fsencode(image) in command:
            found.append(int(folder.name))
    return found


def mounts(path: Path) -> list[str]:
    """What is mounted over files of this image's name, for this test."""
    told = Path("/proc/mounts").read_text().splitlines()
    return [line for line in told if f"/{path.name} " in line and str(path.parent) in line]


@pytest.mark.parametrize(
    ("name", "fmt", "more"),
    [
        ("vm.qcow2", "qcow2", ()),
        ("packed.qcow2", "qcow2", ("-c",)),
        ("vm.vhdx", "vhdx", ()),
        ("vm.vhd", "vpc", ()),
        ("vm.vmdk", "vmdk", ()),
        ("vm.vdi", "vdi", ()),
    ],
)
def test_every_format_is_replicated_as_a_sparse_raw_disk(
    tmp_path: Path, name: str, fmt: str, more: tuple[str, ...]
) -> None:
    image = made(tmp_path / name, fmt, *more)
    vm = br.protect(image, tmp_path / "store", name="vm")
    assert vm.last is not None
    assert (vm.last.action, vm.last.kind) == ("initial", "crash-consistent")
    vm.replica.recover(None, tmp_path / "first.raw")
    compare(image, fmt, tmp_path / "first.raw")
    change(image, fmt, "write -P 7 1M 64k", "write -P 8 20M 4k")
    result = br.relationship("vm").sync()
    assert (result.action, result.bytes_sent) == ("scan", 68 * KIB), result
    vm.replica.recover(None, tmp_path / "second.raw")
    compare(image, fmt, tmp_path / "second.raw")
    disk = tmp_path / "store" / "vm" / "disk0" / "disk.img"
    assert disk.stat().st_blocks * 512 <= 5 * MIB, "what reads as zeros is a hole in the replica"
    assert vm.verify().damage == []
    assert vm.points()[0].disks[0].name == name
    assert mounts(image) == []


def test_an_image_that_changes_while_it_is_read_makes_a_fuzzy_point(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from blockreplica.replication import full

    image = made(tmp_path / "vm.qcow2", "qcow2")
    passes = full.FullMovement._run_passes

    def changed_meanwhile(self: full.FullMovement, *rest: object) -> None:
        passes(self, *rest)  # type: ignore[arg-type]
        os.utime(image)

    monkeypatch.setattr(full.FullMovement, "_run_passes", changed_meanwhile)
    vm = br.protect(image, tmp_path / "store", name="vm")
    assert vm.last is not None
    assert vm.last.kind == "fuzzy"


def test_an_image_that_a_machine_has_open_is_refused(tmp_path: Path) -> None:
    image = made(tmp_path / "vm.qcow2", "qcow2")
    vm = br.protect(image, tmp_path / "store", name="vm")
    with opened_as_raw(image, "qcow2", writable=True), pytest.raises(BusyError, match="qmp:"):
        vm.sync()
    assert vm.sync().action == "scan"


@pytest.mark.parametrize("option", ["backing_file", "data_file"])
def test_an_image_of_several_files_is_refused(tmp_path: Path, option: str) -> None:
    made(tmp_path / "base.raw", "raw")
    more = f"{option}={tmp_path / 'base.raw'}" + (",backing_fmt=raw" if option == "backing_file" else "")
    image = tmp_path / "vm.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-o", more, image, "24M"], check=True)
    with pytest.raises(RefusedError, match=r"base\.raw" if option == "backing_file" else "data in another file"):
        br.protect(image, tmp_path / "store", name="vm")


def test_the_content_alone_does_not_decide_the_format(tmp_path: Path) -> None:
    disk = made(tmp_path / "vm.img", "qcow2")
    with pytest.raises(RefusedError, match="--format"):
        br.protect(disk, tmp_path / "store", name="vm")
    vm = br.protect(disk, tmp_path / "store", name="vm", format="raw")
    assert vm.points()[0].disks[0].size == disk.stat().st_size
    other = br.protect(disk, tmp_path / "store", name="other", format="qcow2")
    assert other.points()[0].disks[0].size == 24 * MIB
    with pytest.raises(UsageError, match="wanted raw, qcow2"):
        br.protect(disk, tmp_path / "store", name="third", format="iso")


def test_without_qemu_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = made(tmp_path / "vm.qcow2", "qcow2")
    monkeypatch.setattr(formats.shutil, "which", lambda _: None)
    with pytest.raises(NotFoundError, match="apt install qemu-utils"):
        br.protect(image, tmp_path / "store", name="vm")


HOLDING = """
import sys, time
from pathlib import Path
from blockreplica.images.formats import opened_as_raw
with opened_as_raw(Path(sys.argv[1]), "qcow2"):
    print("open", flush=True)
    time.sleep(60)
"""


def test_the_daemon_ends_with_the_program_that_needed_it(tmp_path: Path) -> None:
    image = made(tmp_path / "vm.qcow2", "qcow2")
    holder = subprocess.Popen([sys.executable, "-c", HOLDING, image], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "open\n"
    [mine] = daemons(image)
    assert mounts(image)
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    holder.stdout.close()
    for _ in range(1000):
        if mine not in daemons(image) and not mounts(image):
            break
        os.sched_yield()
        subprocess.run(["sleep", "0.01"], check=True)
    assert mine not in daemons(image)
    assert mounts(image) == []
    vm = br.protect(image, tmp_path / "store", name="vm")
    assert vm.points()
