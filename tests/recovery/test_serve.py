"""A point served over NBD: its bytes and its holes, nothing damaged, the replica untouched, an end in order."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from blockreplica import ServedPoint
from blockreplica.errors import BusyError, DamageError, NotFoundError, UsageError
from blockreplica.recovery.serve import PLUGIN
from replication.world import BLOCK, World, flip, foreign_write, write

pytestmark = [
    pytest.mark.skipif(not PLUGIN.exists(), reason="the plugin was not built: nbdkit-plugin-dev is missing"),
    pytest.mark.skipif(shutil.which("nbdkit") is None, reason="nbdkit is not installed"),
    pytest.mark.skipif(shutil.which("qemu-img") is None, reason="qemu-utils is not installed"),
]
SIZE = 200 * BLOCK + 1024


@pytest.fixture
def world(tmp_path: Path) -> World:
    """Four points."""
    made = World.make(tmp_path, sizes=(SIZE,))
    made.protect()
    for round_ in (1, 2, 3):
        write(made.image, (round_ * 50_000, bytes([round_]) * 90_000), (SIZE - 3, b"end"))
        made.sync()
    return made


def read(uri: str, folder: Path) -> bytes:
    """All of it, as qemu-img sees it."""
    target = folder / "read.img"
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "raw", uri, str(target)], check=True)
    data = target.read_bytes()
    target.unlink()
    return data


def io(uri: str, *commands: str, readonly: bool = False) -> subprocess.CompletedProcess[str]:
    """qemu-io on a served disk."""
    said = [word for command in commands for word in ("-c", command)]
    options = ["-r"] if readonly else []
    return subprocess.run(["qemu-io", *options, "-f", "raw", *said, uri], capture_output=True, text=True, check=False)


def snapshot(world: World) -> dict[Path, bytes]:
    """The store, byte by byte."""
    return {path: path.read_bytes() for path in sorted(world.store.rglob("*")) if path.is_file()}


def test_every_point_is_served_as_it_was_and_the_replica_is_only_read(world: World) -> None:
    before = snapshot(world)
    for point in world.vm.points():
        with world.vm.replica.serve(point) as served:
            assert read(served.uri, world.folder) == world.models[point.id][0]
            assert served.point == point
            assert "offset" not in served.told()
    assert snapshot(world) == before


def test_without_a_point_the_newest_and_several_at_once(world: World) -> None:
    with world.vm.replica.serve() as one, world.vm.replica.serve("1.1") as two:
        assert one.uri != two.uri
        assert read(one.uri, world.folder) == world.models["1.4"][0]
        assert read(two.uri, world.folder) == world.models["1.1"][0]


def test_rule_15_a_served_point_stays_itself_while_syncs_go_on(world: World) -> None:
    with world.vm.replica.serve("1.2") as served:
        for round_ in range(4):
            foreign_write(world.image, round_ * 70_000, os.urandom(60_000))
            world.note(world.vm.sync())
            assert read(served.uri, world.folder) == world.models["1.2"][0]


def test_points_of_every_block_size_are_served_also_while_it_changes(world: World) -> None:
    with world.vm.replica.serve("1.2") as early:
        for block_size in (4096, 1 << 20):
            world.resync(block_size=block_size)
            foreign_write(world.image, 70_000, os.urandom(60_000))
            world.sync()
            assert read(early.uri, world.folder) == world.models["1.2"][0]
    for point, model in world.models.items():
        with world.vm.replica.serve(point) as served:
            assert read(served.uri, world.folder) == model[0]
            assert "offset" not in served.told()


def test_invariant_10_a_served_point_is_not_pruned_and_its_end_lets_it_go(world: World) -> None:
    with world.vm.replica.serve("1.2") as served:
        world.keep_only(1)
        world.sync()
        assert read(served.uri, world.folder) == world.models["1.2"][0]
        assert "1.2" in [point.id for point in world.vm.points()]


def test_writes_are_a_servers_own_and_gone_at_its_end(world: World) -> None:
    before, model = snapshot(world), bytearray(world.models["1.3"][0])
    with (
        world.vm.replica.serve("1.3", writable=True) as one,
        world.vm.replica.serve("1.3", writable=True) as two,
    ):
        assert io(one.uri, "write -P 0x11 1000 50000", "discard 200k 64k", "flush").returncode == 0
        model[1000:51000] = b"\x11" * 50000
        assert read(one.uri, world.folder)[: 200 << 10] == model[: 200 << 10]
        assert read(two.uri, world.folder) == world.models["1.3"][0]
    assert snapshot(world) == before
    with world.vm.replica.serve("1.3", writable=True) as again:
        assert read(again.uri, world.folder) == world.models["1.3"][0]


def test_unless_it_is_writable_nobody_can_write(world: World) -> None:
    with world.vm.replica.serve() as served:
        assert io(served.uri, "write -P 1 0 4096").returncode != 0


def test_a_damaged_block_is_an_error_on_the_wire_and_named_in_the_log(world: World) -> None:
    """Invariant 11: never served silently; all around it is."""
    flip(world.disk() / "disk.img", 160_000)
    block = 160_000 // BLOCK * BLOCK
    with world.vm.replica.serve() as served:
        failed = io(served.uri, f"read {block} {BLOCK}", readonly=True)
        assert "Input/output error" in failed.stdout + failed.stderr
        assert f"offset {block};" in served.told()
        assert io(served.uri, f"read {block + BLOCK} 65536", f"read 0 {BLOCK}", readonly=True).returncode == 0


def test_holes_are_told_as_holes(tmp_path: Path) -> None:
    world = World(tmp_path, [tmp_path / "vm0.img"])
    world.image.touch()
    os.truncate(world.image, 1 << 40)
    write(world.image, (5 << 30, b"a" * 100_000), (1 << 39, b"b" * 10))
    world.begin()
    world.vm.sync()
    write(world.image, (7 << 30, b"c" * 5000))
    world.vm.sync()
    with world.vm.replica.serve("1.1") as served:
        told = subprocess.run(["nbdinfo", "--map", "--totals", served.uri], capture_output=True, text=True, check=True)
    data = sum(int(line.split()[0]) for line in told.stdout.splitlines() if line.endswith("data"))
    assert 0 < data <= 5 * 8192 + 131072, told.stdout


def test_it_ends_after_its_time(world: World) -> None:
    with world.vm.replica.serve(ttl_s=1) as served:
        assert served.wait(30)
    assert not Path(served.uri.partition("socket=")[2]).exists()


def test_nothing_is_left_of_it(world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    private = Path(tempfile.mkdtemp())  # tmp_path may be too long for a socket in it
    monkeypatch.setattr("tempfile.tempdir", str(private))
    with world.vm.replica.serve(pid_file=tmp_path / "pid") as served:
        assert (tmp_path / "pid").read_text().strip() == str(served.pid)
        (folder,) = private.iterdir()
        assert folder.stat().st_mode & 0o777 == 0o700
    private.rmdir()  # it is empty
    assert not (tmp_path / "pid").exists()


def test_nothing_is_left_of_one_that_could_not_begin(
    world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    private = Path(tempfile.mkdtemp())
    monkeypatch.setattr("tempfile.tempdir", str(private))
    with pytest.raises(NotFoundError):  # also one that serves already is ended: nobody could find it
        world.vm.replica.serve(detach=True, pid_file=tmp_path / "missing" / "pid")
    (world.disk() / "disk.img").rename(tmp_path / "away")
    with pytest.raises(DamageError):
        world.vm.replica.serve()
    assert world.vm.status().served == []
    private.rmdir()  # it is empty


def test_the_seed_is_in_no_list_of_processes(world: World) -> None:
    with world.vm.replica.serve() as served:
        line = Path(f"/proc/{served.pid}/cmdline").read_bytes()
        environment = Path(f"/proc/{served.pid}/environ").read_bytes()
    assert str(world.vm.replica.base.record.seed).encode() not in line + environment


def test_what_can_not_be_served_is_refused(world: World, tmp_path: Path) -> None:
    for point in ("1.9", "2.1", ""):
        with pytest.raises(NotFoundError):
            world.vm.replica.serve(point)
    with pytest.raises(NotFoundError):
        world.vm.replica.serve(disk=1)
    with pytest.raises(UsageError):
        world.vm.replica.serve(tcp="127.0.0.1:10809")
    with pytest.raises(UsageError):
        world.vm.replica.serve(ttl_s=0)
    with world.vm.replica.serve(socket=tmp_path / "s"), pytest.raises(BusyError):
        world.vm.replica.serve(socket=tmp_path / "s")


def test_a_detached_server_outlives_whoever_began_it_with_its_lease(world: World) -> None:
    code = (
        "import sys; from pathlib import Path; from blockreplica.stores import DirectoryStore\n"
        "from blockreplica.recovery.serve import serve\n"
        "print(serve(DirectoryStore(Path(sys.argv[1])).replica('vm'), '1.1', socket=sys.argv[2], detach=True).pid)"
    )
    socket = world.folder / "s"
    said = subprocess.run([sys.executable, "-c", code, str(world.store), str(socket)], capture_output=True, check=True)
    pid = int(said.stdout)
    try:
        world.keep_only(1)
        world.sync()
        assert read(f"nbd+unix:///?socket={socket}", world.folder) == world.models["1.1"][0]
    finally:
        os.kill(pid, signal.SIGTERM)
    until = time.monotonic() + 30
    while socket.exists() and time.monotonic() < until:
        time.sleep(0.02)
    assert not socket.exists()


def test_it_is_a_context_manager(world: World) -> None:
    with world.vm.replica.serve() as served:
        assert isinstance(served, ServedPoint)
        assert not served.wait(0.01)
    served.close()
