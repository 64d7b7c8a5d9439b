"""A guest writes what it likes into its raw disk: nothing that it writes there makes this host open another file."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
from pathlib import Path
from typing import Any

import pytest

import blockreplica as br
from blockreplica.errors import RefusedError, UsageError
from blockreplica.files import FILES
from blockreplica.images import formats, names
from blockreplica.images.formats import describe
from blockreplica.images.names import RAW, detect
from blockreplica.tracking.known_format import known_format
from blockreplica.tracking.names import Names

MIB = 1 << 20
BEGINNINGS = {
    "qcow2": b"QFI\xfb", "vhdx": b"vhdxfile", "vpc": b"conectix", "vmdk": b"KDMV",
    "vdi": bytes(64) + b"\x7f\x10\xda\xbe",
}  # fmt: skip


@pytest.fixture(autouse=True)
def no_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks a program what a disk is has lost already."""

    def refused(*_: Any, **__: Any) -> Any:
        raise AssertionError("a program was started over what a guest wrote")

    monkeypatch.setenv("BLOCKREPLICA_STATE", str(tmp_path / "state"))
    monkeypatch.setattr(formats.subprocess, "run", refused)
    monkeypatch.setattr(formats.subprocess, "Popen", refused)


def header(data_file: Path) -> bytes:
    """A qcow2 of version 3 of 64 KiB clusters, whose data is in another file, named in a header extension."""
    fixed = struct.pack(
        ">4sIQIIQIIQQIIQQQQII", b"QFI\xfb", 3, 0, 0, 16, MIB, 0, 1, 196608, 65536, 1, 0, 0, 4, 0, 0, 4, 104
    )
    name = os.fsencode(data_file)
    extension = struct.pack(">II", 0x44415441, len(name)) + name.ljust(-(-len(name) // 8) * 8, b"\0")
    return (fixed + extension + bytes(8)).ljust(4 * 65536, b"\0")


def test_no_program_is_asked_what_a_raw_disk_is_that_begins_as_a_qcow2(tmp_path: Path) -> None:
    disk = tmp_path / "vm.img"
    disk.write_bytes(header(tmp_path / "secret"))
    with pytest.raises(RefusedError, match="by its content qcow2"):
        detect(disk)


def test_a_raw_disk_that_is_tracked_stays_one_whatever_its_guest_writes(tmp_path: Path) -> None:
    disk = tmp_path / "vm.img"
    disk.write_bytes(bytes(MIB))
    with br.track(disk) as guest:
        guest.pwrite(header(tmp_path / "secret"), 0)
    assert known_format(Names.of(disk), FILES) == RAW
    with br.track(disk) as guest:
        guest.pwrite(b"it goes on", 65536)
    vm = br.protect(disk, tmp_path / "store", name="vm")
    assert vm.images == [disk]
    assert vm.replica.read(None, 0, 100) == header(tmp_path / "secret")[:100]


def test_a_protected_raw_disk_stays_one_whatever_its_guest_writes(tmp_path: Path) -> None:
    disk = tmp_path / "vm.img"
    disk.write_bytes(bytes(MIB))
    br.protect(disk, tmp_path / "store", name="vm")
    with disk.open("r+b") as guest:
        guest.write(header(tmp_path / "secret"))
    vm = br.relationship("vm")
    point = vm.sync().point
    assert vm.replica.read(point, 0, 100) == header(tmp_path / "secret")[:100]
    assert vm.replica.base.find(point).disks[0].size == MIB


def test_a_tracked_raw_disk_with_the_name_of_a_format_is_not_taken_for_that_later(tmp_path: Path) -> None:
    disk = tmp_path / "vm.qcow2"
    disk.write_bytes(bytes(MIB))
    with br.track(disk, format="raw") as guest:
        guest.pwrite(header(tmp_path / "secret"), 0)
    exported = [br.export] if shutil.which("nbdkit") else []
    for use in (br.track, *exported, lambda path: br.protect(path, tmp_path / "store", name="vm")):
        with pytest.raises(RefusedError, match="tracked as a raw disk"):
            use(disk)
    br.track(disk, format="raw").close()


@pytest.mark.parametrize("fmt", BEGINNINGS)
def test_the_library_does_not_track_a_container_as_if_it_were_its_disk(tmp_path: Path, fmt: str) -> None:
    [suffix] = [suffix for suffix, each in names.SUFFIXES.items() if each == fmt][:1]
    image = tmp_path / f"vm{suffix}"
    image.write_bytes(BEGINNINGS[fmt].ljust(MIB, b"\0"))
    with pytest.raises(RefusedError, match="`export` serves"):
        br.track(image)
    assert [path.name for path in tmp_path.iterdir()] == [image.name]
    with br.track(image, format="raw") as tracked:
        assert tracked.size == MIB
    with pytest.raises(UsageError, match="wanted raw, qcow2"):
        br.track(image, format="iso")


def test_a_vhd_of_fixed_size_is_known_by_its_end(tmp_path: Path) -> None:
    image = tmp_path / "vm.vhd"
    image.write_bytes(bytes(MIB) + b"conectix".ljust(512, b"\0"))
    assert detect(image) == "vpc"
    image.rename(tmp_path / "vm.img")
    assert detect(tmp_path / "vm.img") == RAW


def test_a_qcow2_that_names_a_data_file_is_refused_before_any_program_opens_that(tmp_path: Path) -> None:
    image = tmp_path / "vm.qcow2"
    image.write_bytes(header(tmp_path / "secret"))
    with pytest.raises(RefusedError, match="data in another file"):
        describe(image, "qcow2")


def test_the_header_of_these_tests_is_one_that_qemu_would_follow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the tests above would prove nothing."""
    monkeypatch.undo()
    if formats.shutil.which("qemu-img") is None:
        pytest.skip("needs qemu-img (qemu-utils)")
    image = tmp_path / "vm.img"
    image.write_bytes(header(tmp_path / "secret"))
    said = subprocess.run(["qemu-img", "info", str(image)], capture_output=True, text=True)
    assert str(tmp_path / "secret") in said.stdout + said.stderr, said
