"""What real NBD clients write through an export stands in the image and in its log: invariant 1, rule 1."""

from __future__ import annotations

import contextlib
import json
import os
import random
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import blockreplica as br
from blockreplica.tracking import ImageSource

from .conftest import MIB, SIZE
from .tools import content_by_logs, fio, need, qemu_io, run

Serve = Callable[..., br.Export]


def test_what_nbdcopy_writes_and_reads_is_what_qemu_img_compares(image: Path, tmp_path: Path, serve: Serve) -> None:
    noise = tmp_path / "noise"
    noise.write_bytes(random.Random(1).randbytes(SIZE // 2) + bytes(SIZE // 2))
    served = serve(image, log_limit=SIZE)
    run("nbdcopy", noise, served.uri)
    run("qemu-img", "compare", "-f", "raw", "-F", "raw", noise, served.uri)
    run("nbdcopy", served.uri, tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == noise.read_bytes()
    served.close()
    assert image.read_bytes() == noise.read_bytes() == content_by_logs(image, SIZE, 1)


@pytest.mark.parametrize("options", [["--rw=randwrite", "--bs=4k"], ["--rw=write", "--bs=256k"],
                                     ["--rw=randwrite", "--bsrange=512-64k", "--fsync=32"]])  # fmt: skip
def test_fio_reads_back_what_it_wrote_and_the_log_has_it(image: Path, serve: Serve, options: list[str]) -> None:
    served = serve(image)
    fio(served.uri, "--name=verify", "--iodepth=16", "--verify=crc32c", "--verify_fatal=1", "--io_size=24M", *options)
    assert served.status().state == "tracking"
    served.close()
    assert content_by_logs(image, SIZE, 1) == image.read_bytes()


def write_over_one_another(image: Path, serve: Serve, *, ios: int, rounds: int) -> None:
    """Rule 1: four connections write one MiB at once, while others zero and trim it; each round ends with a cut. The
    logs replayed are the image."""
    served = serve(image, log_limit=4 << 30)
    jobs = ["--rw=randwrite", "--bsrange=512-8k", "--iodepth=16", "--norandommap", f"--number_ios={ios}"]
    done = threading.Event()

    def zeros() -> None:
        while not done.is_set():
            qemu_io(
                served.uri, *(f"{what} {at * 8 * 1024} 12k" for at in range(60) for what in ("write -z", "discard"))
            )

    others = [threading.Thread(target=zeros) for _ in range(2)]
    for each in others:
        each.start()
    try:
        for number in range(rounds):
            fio(served.uri, "--name=overlap", *jobs, f"--io_size={ios * 8}k", jobs=4, size="1M")
            cut = ImageSource.open(image).cut()
            assert cut is not None
            assert cut.epoch == number + 1
    finally:
        done.set()
        for each in others:
            each.join()
    status = served.status()
    assert (status.state, status.writes > rounds * 4 * ios) == ("tracking", True)
    served.close()
    epochs = rounds + (status.dirty_bytes > 0)
    assert content_by_logs(image, SIZE, epochs) == image.read_bytes()


def test_overlapping_writes_from_several_connections_land_alike_in_image_and_log(image: Path, serve: Serve) -> None:
    write_over_one_another(image, serve, ios=4000, rounds=2)


@pytest.mark.campaign
def test_hundreds_of_thousands_of_overlapping_writes_land_alike_in_image_and_log(image: Path, serve: Serve) -> None:
    write_over_one_another(image, serve, ios=25000, rounds=4)


def test_an_export_has_the_abilities_that_it_should(image: Path, serve: Serve) -> None:
    served = serve(image)
    info = json.loads(run("nbdinfo", "--json", served.uri))["exports"][0]
    wanted = ["can_flush", "can_fua", "can_multi_conn", "can_trim", "can_zero", "can_fast_zero", "can_cache"]
    assert {name: info[name] for name in wanted} == dict.fromkeys(wanted, True)
    assert (info["export-size"], info["is_read_only"], info["block_size_minimum"]) == (SIZE, False, 1)
    assert str(image) in info["description"]


def test_a_read_only_export_takes_no_writes(image: Path, serve: Serve) -> None:
    served = serve(image, read_only=True)
    assert json.loads(run("nbdinfo", "--json", served.uri))["exports"][0]["is_read_only"]


def test_zeros_and_trims_make_holes_and_a_zero_without_a_hole_keeps_its_room(image: Path, serve: Serve) -> None:
    served = serve(image)
    qemu_io(served.uri, "write -P 1 0 4M", "discard 0 1M", "write -z -u 1M 1M", "write -z 2M 1M")
    holes = json.loads(run("nbdinfo", "--map", "--json", served.uri))
    data = [(one["offset"], one["length"]) for one in holes if one["type"] == 0]
    assert data == [(3 * MIB, MIB)]
    assert 2 * MIB <= os.stat(image).st_blocks * 512 < 3 * MIB
    served.close()
    assert image.read_bytes()[: 4 * MIB] == bytes(3 * MIB) + b"\1" * MIB
    assert content_by_logs(image, SIZE, 1) == image.read_bytes()


def test_a_fast_zero_is_done_here_and_refused_where_it_would_be_slow(tmp_path: Path, image: Path, serve: Serve) -> None:
    """tmpfs punches holes but can't zero in place: there a fast zero that must keep its room is not supported."""
    served = serve(image)
    script = (
        "import sys, ctypes\n"
        "lib = ctypes.CDLL('libnbd.so.0', use_errno=True)\n"
        "lib.nbd_create.restype = ctypes.c_void_p\n"
        "nbd = ctypes.c_void_p(lib.nbd_create())\n"
        "assert lib.nbd_connect_uri(nbd, sys.argv[1].encode()) == 0\n"
        "zero = lambda flags: (lib.nbd_zero(nbd, ctypes.c_uint64(65536), ctypes.c_uint64(0), ctypes.c_uint32(flags)), "
        "lib.nbd_get_errno())\n"
        "print(zero(16), zero(16 | 2))\n"  # FAST_ZERO, FAST_ZERO with NO_HOLE
    )
    if subprocess.run([sys.executable, "-c", "import ctypes; ctypes.CDLL('libnbd.so.0')"]).returncode:
        pytest.skip("libnbd.so.0 is missing")
    assert run(sys.executable, "-c", script, served.uri).strip() == "(0, 0) (0, 0)"
    if not os.path.ismount("/dev/shm"):
        pytest.skip("no tmpfs at /dev/shm")
    there = Path("/dev/shm") / f"blockreplica-{os.getpid()}-{random.getrandbits(40):x}"
    there.mkdir()
    try:
        (there / "vm.img").write_bytes(b"x" * MIB)
        other = serve(there / "vm.img", socket=tmp_path / "s")
        assert run(sys.executable, "-c", script, other.uri).strip() == "(0, 0) (-1, 95)"  # ENOTSUP
        other.close()
        assert (there / "vm.img").read_bytes() == bytes(65536) + b"x" * (MIB - 65536)
    finally:
        for path in there.iterdir():
            path.unlink()
        there.rmdir()


def test_a_write_with_fua_and_a_flush_reach_the_disk_before_their_answer(image: Path, serve: Serve) -> None:
    """Rule 2's ground: an answered FUA is durable. strace sees an fdatasync of the image for each, and none without."""
    need("strace")
    served = serve(image)
    trace = image.with_name("trace")
    tracer = subprocess.Popen(
        ["strace", "-f", "-y", "-qq", "-e", "trace=fdatasync", "-o", trace, "-p", str(served.pid)]
    )
    try:
        for _ in range(200):
            if (Path("/proc") / str(served.pid) / "status").read_text().find(f"TracerPid:\t{tracer.pid}") >= 0:
                break
            threading.Event().wait(0.02)
        qemu_io(served.uri, "write -P 1 0 4k")
        counts = [_fsyncs(trace, image)]
        for command in ("write -f -P 2 8k 4k", "flush", "write -f -z 16k 4k"):
            qemu_io(served.uri, command)
            counts.append(_fsyncs(trace, image))
    finally:
        tracer.terminate()
        tracer.wait()
    # qemu-io itself flushes when it closes a connection that has written, so every run adds one more
    print(counts)
    assert counts[1] - counts[0] >= 2
    assert counts[2] - counts[1] >= 1
    assert counts[3] - counts[2] >= 2


def _fsyncs(trace: Path, image: Path) -> int:
    return trace.read_text().count(f"<{image}>")


def change_a_file(path: Path, model: dict[str, bytearray], chaos: random.Random) -> None:
    """One step as of fsx: written anew, overwritten somewhere, cut or made longer, removed; `model` is what must be."""
    held, what = model.get(path.name), chaos.random()
    if held is None or what < 0.2:
        model[path.name] = bytearray(chaos.randbytes(chaos.randrange(200_000)))
        path.write_bytes(model[path.name])
    elif what < 0.4:
        path.unlink()
        del model[path.name]
    elif what < 0.8:
        at, data = chaos.randrange(200_000), chaos.randbytes(chaos.randrange(1, 30_000))
        held.extend(bytes(max(0, at - len(held))))
        held[at : at + len(data)] = data
        with path.open("r+b") as file:
            file.seek(at)
            file.write(data)
    else:
        size = chaos.randrange(200_000)
        held[size:] = bytes(max(0, size - len(held)))
        os.truncate(path, size)


@contextlib.contextmanager
def shown(uri: str, path: Path) -> Iterator[Path]:
    """What an export serves, as a file."""
    path.touch()
    mounter = subprocess.Popen(["nbdfuse", path, uri])
    try:
        for _ in range(500):
            if path.stat().st_size == SIZE:
                break
            threading.Event().wait(0.01)
        yield path
    finally:
        subprocess.run(["fusermount3", "-u", path], capture_output=True)
        mounter.wait(30)


def test_a_file_system_made_over_the_export_is_clean_and_so_is_its_replica(
    image: Path, tmp_path: Path, serve: Serve
) -> None:
    """nbdfuse gives the export as a file; ext4 on it is loop-mounted and worked on while a sync runs."""
    need("nbdfuse", "mkfs.ext4", "e2fsck", "mount")
    if os.geteuid() != 0 or not os.path.exists("/dev/fuse"):
        pytest.skip("needs root and FUSE for a loop mount")
    served = serve(image)
    there = tmp_path / "mnt"
    there.mkdir()
    vm = br.protect(image, tmp_path / "store", name="vm")
    with shown(served.uri, tmp_path / "fuse") as fuse:
        run("mkfs.ext4", "-q", "-F", fuse)
        if subprocess.run(["mount", "-o", "loop", fuse, there], capture_output=True).returncode:
            pytest.skip("loop mounts are not possible here")
        try:
            chaos, model = random.Random(5), dict[str, bytearray]()
            for step in range(400):
                change_a_file(there / f"f{chaos.randrange(40)}", model, chaos)
                if step == 200:
                    os.sync()
                    assert vm.sync().action == "delta"
            run("umount", there)
            run("mount", "-o", "loop", fuse, there)
            assert {path.name: path.read_bytes() for path in there.iterdir() if path.is_file()} == model
        finally:
            run("umount", there)
    served.close()
    run("e2fsck", "-fn", image)
    assert vm.sync().action == "delta"
    vm.replica.recover(None, tmp_path / "out.img")
    assert (tmp_path / "out.img").read_bytes() == image.read_bytes()
