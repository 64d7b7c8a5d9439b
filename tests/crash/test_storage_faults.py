"""Storage that fails under the program: read errors, write errors, failed fsyncs, a store that is full.

The program runs as it is; `strace` makes its system calls fail, a small file system fills up. Each failure ends in an
error that names the file, every point stays whole, and the next sync works.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import blockreplica as br
from blockreplica.cli.main import run
from crash.scene import ALL, BLOCK, Scene


def traced(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a program under strace."""
    return subprocess.run(["strace", "-f", "-qq", *map(str, arguments)], capture_output=True, text=True)


@pytest.fixture
def strace() -> None:
    """Skip where no strace can inject."""
    if shutil.which("strace") is None:
        pytest.skip("there is no strace")
    probe = traced("-o", "/dev/null", "-e", "inject=getppid:error=EIO", "true")
    if probe.returncode:
        pytest.skip(f"strace can't trace here: {probe.stderr.strip()}")


def with_fault(scene: Scene, path: Path, fault: str, *command: object) -> None:
    """A command whose system calls on `path` fail as `fault` says: an error that names file and errno."""
    call, error = fault.split(":")[:2]
    trace = scene.folder / "trace"
    done = traced(
        "-o", trace, "-P", path, "-e", f"trace={call}", "-e", f"inject={fault}",
        sys.executable, "-m", "blockreplica", *command, "--json",
    )  # fmt: skip
    assert "INJECTED" in trace.read_text(), f"nothing failed: {call} on {path.name} was not called that often"
    assert done.returncode == 8, (done.returncode, done.stderr)
    what = json.loads(done.stderr.splitlines()[-1])["error"]
    assert error.removeprefix("error=") in what["message"]
    assert path.name.removesuffix(".new") in what["message"]
    assert what["recoverable"]


READS = {
    "sync": ["sync", "vm"],
    "resync": ["resync", "vm"],
    "resync --deep": ["resync", "vm", "--deep"],
}


@pytest.mark.usefixtures("strace")
@pytest.mark.parametrize("command", READS)
def test_a_read_error_in_the_image_costs_no_point(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    scene = Scene(tmp_path, capsys, tracked=False)
    scene.write()
    nth = 2 if command == "resync --deep" else 1
    with_fault(scene, scene.image, f"pread64:error=EIO:when={nth}+", *READS[command])
    scene.right(*ALL)
    scene.sync()
    scene.right(*ALL, "1.4")


@pytest.mark.usefixtures("strace")
def test_a_read_error_in_the_first_replication_lets_the_same_command_go_on(tmp_path: Path, scene: Scene) -> None:
    image = tmp_path / "other.img"
    image.write_bytes(random.Random(4).randbytes(1 << 20))
    command = ["protect", image, "--to", tmp_path / "second", "--name", "other"]
    with_fault(scene, image, "pread64:error=EIO:when=1+", *command)
    assert scene.cli(*command)["action"] == "initial"
    br.relationship("other").replica.recover(None, tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == image.read_bytes()


@pytest.mark.usefixtures("strace")
def test_a_read_error_in_the_replica_recovers_nothing_instead_of_something(scene: Scene) -> None:
    target = scene.folder / "wanted.img"
    with_fault(scene, scene.disk / "disk.img", "pread64,preadv2:error=EIO:when=1+", "recover", "vm", "--to", target)
    assert not list(scene.folder.glob("wanted*"))
    scene.right(*ALL)


WRITES = [
    ("disk0/disk.img", "pwrite64:error=EIO:when=1"),
    ("disk0/disk.img", "fdatasync:error=EIO:when=1"),
    ("disk0/checksums", "pwrite64:error=EIO:when=1"),
    ("disk0/checksums", "fdatasync:error=EIO:when=1"),
    ("disk0/undo/000004.hrl", "fdatasync:error=EIO:when=2"),
    ("disk0/undo/000004.index", "fdatasync:error=EIO:when=1"),
    ("points/000004.new", "pwrite64:error=ENOSPC:when=1"),
    ("state.new", "fdatasync:error=EIO:when=1"),
]


@pytest.mark.usefixtures("strace")
@pytest.mark.parametrize(("name", "fault"), WRITES)
def test_a_write_error_in_the_store_costs_no_point(scene: Scene, name: str, fault: str) -> None:
    scene.write()
    with_fault(scene, scene.replica / name, fault, "sync", "vm")
    scene.right(*ALL)
    scene.sync()
    scene.right(*ALL, "1.4")
    assert not scene.cli("verify", "vm")["damage"]


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of four megabytes."""
    folder = tmp_path / "small"
    folder.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", folder], capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"a small file system can't be mounted: {made.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def larger(folder: Path) -> None:
    subprocess.run(["mount", "-o", "remount,size=64m", folder], check=True)


def test_a_full_store_in_the_middle_of_an_apply_keeps_its_points_and_the_sync_goes_on_once_there_is_room(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], small: Path
) -> None:
    scene = Scene(tmp_path, capsys, store=small / "store")
    code, points = 0, list(ALL)
    while code == 0:
        with br.track(scene.image) as image:
            image.pwrite(scene.rng.randbytes(200_000), scene.rng.randrange(4) * 65536)
        code = run(["sync", "vm"])
        if code == 0:
            scene.remember()
            points = [*scene.models]
    assert code == 8
    error = scene.cli("sync", "vm", code=8)
    assert "make room" in error["message"]
    assert error["recoverable"]

    scene.right(*points)
    assert not scene.cli("verify", "vm")["damage"]
    larger(small)
    scene.sync()
    scene.right(*points)
    assert not scene.cli("verify", "vm")["damage"]


def test_a_full_store_in_the_first_replication_lets_the_same_command_go_on(
    tmp_path: Path, small: Path, scene: Scene
) -> None:
    image = tmp_path / "other.img"
    image.write_bytes(random.Random(4).randbytes(5 << 20))
    command = ["protect", image, "--to", small / "second", "--name", "other", "--block-size", BLOCK]
    assert "room" in scene.cli(*command, code=8)["message"]
    with image.open("r+b") as file:
        file.truncate(3 << 20)
    (small / "ballast").write_bytes(bytes(512 << 10))  # checked for room: there is, until the copy is under way
    os.truncate(small / "ballast", 3 << 20)
    command[1] = image
    assert scene.cli("protect", *command[1:])["action"] == "initial"
    br.relationship("other").replica.recover(None, tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == image.read_bytes()


def test_a_recovery_to_a_full_disk_leaves_nothing_there(scene: Scene, small: Path) -> None:
    (small / "ballast").write_bytes(bytes(7 << 19))
    error = scene.cli("recover", "vm", "--to", small / "out", code=8)
    assert "ENOSPC" in error["message"]
    assert [path.name for path in small.iterdir()] == ["ballast"]
    scene.right(*ALL)
