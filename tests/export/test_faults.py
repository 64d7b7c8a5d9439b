"""Storage that fails under an export: the guest's writes go on, tracking gives way step by step, and says so (rule 3,
invariants 1, 3, 11 and 13)."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import blockreplica as br
from blockreplica.tracking.control import Control
from blockreplica.tracking.names import Names

from .conftest import MIB
from .tools import need, qemu_io, run

Serve = Callable[..., br.Export]


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[Path]:
    """A file system of `size` bytes in memory."""
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(folder)], check=False).returncode:
        pytest.skip("no tmpfs can be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@contextmanager
def injected(pid: int, *rules: str, path: Path | None = None) -> Iterator[None]:
    """Calls of a process fail by strace, those on `path` alone if it is given."""
    need("strace")
    words = ["strace", "-qq", "-f", "-o", "/dev/null", "-p", str(pid), *(["-P", str(path)] if path else [])]
    process = subprocess.Popen([*words, *(word for rule in rules for word in ("-e", f"inject={rule}"))], stderr=-1)
    try:
        for _ in range(500):
            tracers = [Path(f"/proc/{pid}/task/{task}/status").read_text() for task in os.listdir(f"/proc/{pid}/task")]
            if all("TracerPid:\t0\n" not in status for status in tracers):
                break
            assert process.poll() is None, process.communicate()[1]
            time.sleep(0.01)
        yield
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate()


def test_rule_3_a_log_without_room_gives_way_and_comes_back(image: Path, tmp_path: Path, serve: Serve) -> None:
    with small_disk(tmp_path / "small", 3 * MIB) as folder:
        with serve(image, tracking_dir=folder) as served:
            vm = br.protect(image, tmp_path / "store", name="vm", tracking_dir=folder)
            qemu_io(served.uri, *(f"write -P {n + 1} {n}M 1M" for n in range(8)))
            status = served.status()
            assert (status.state, status.log_failed) == ("bitmap only", True)
            assert status.dirty_bytes == 8 * MIB
            assert vm.sync().action == "partial-resync"
            assert served.status().state == "tracking"
            qemu_io(served.uri, "write -P 99 20M 64k")
            assert vm.sync().action == "delta"
            vm.replica.recover(None, tmp_path / "out.img")
        assert run("cmp", image, tmp_path / "out.img") == ""


def test_a_log_that_can_not_be_written_costs_the_guest_nothing(image: Path, tmp_path: Path, serve: Serve) -> None:
    with serve(image) as served:
        vm = br.protect(image, tmp_path / "store", name="vm")
        log = Names.of(image).image.with_name("vm.img.hrl")
        with injected(served.pid, "pwrite64,pwritev,pwritev2:error=EIO", path=log):
            qemu_io(served.uri, "write -P 1 1M 256k", "write -z 3M 64k")
        status = served.status()
        assert (status.state, status.log_failed, status.log_error) == ("bitmap only", True, os.strerror(5))
        qemu_io(served.uri, "read -P 1 1M 256k", "write -P 2 5M 4k")
        assert vm.sync().action == "partial-resync"
        qemu_io(served.uri, "write -P 3 6M 4k")
        assert vm.sync().action == "delta"
        vm.replica.recover(None, tmp_path / "out.img")
        assert run("cmp", image, tmp_path / "out.img") == ""


def test_invariant_3_a_failed_fsync_is_told_and_never_taken_back(image: Path, tmp_path: Path, serve: Serve) -> None:
    with serve(image) as served:
        vm = br.protect(image, tmp_path / "store", name="vm")
        with injected(served.pid, "fdatasync:error=EIO", path=image):
            run("qemu-io", "-f", "raw", "-c", "write -P 1 1M 4k", "-c", "flush", served.uri, wanted=1)
        assert served.status().state == "whole image"
        run("qemu-io", "-f", "raw", "-c", "flush", served.uri, wanted=1)  # one that succeeds later proves nothing
    with serve(image) as served:
        assert vm.sync().action == "resync"
        qemu_io(served.uri, "write -P 2 2M 4k", "flush")
        assert vm.sync().action == "delta"


@pytest.mark.parametrize("made", [False, True])
def test_rule_4_an_export_killed_in_a_cut_loses_nothing(image: Path, tmp_path: Path, serve: Serve, made: bool) -> None:
    seed = random.randrange(2**32)
    print("seed", seed)
    rng = random.Random(seed)
    served = serve(image)
    vm = br.protect(image, tmp_path / "store", name="vm")
    qemu_io(served.uri, *(f"write -P {n} {rng.randrange(60 * MIB) // 512 * 512} 8k" for n in range(1, 40)))
    word = tmp_path / "word"
    word.write_bytes(bytes(8))
    control = Control.connect(Names.of(image))
    assert control is not None
    with control:
        control.prepare(word)
        if made:
            with word.open("r+b") as file:
                file.write(b"\1")
        qemu_io(served.uri, *(f"write -P {n} {rng.randrange(60 * MIB) // 512 * 512} 8k" for n in range(40, 80)))
        os.kill(served.pid, signal.SIGKILL)
        served._process.wait()
    with serve(image) as served:
        assert vm.sync().action == "delta"
        vm.replica.recover(None, tmp_path / "out.img")
        assert run("cmp", image, tmp_path / "out.img") == ""
