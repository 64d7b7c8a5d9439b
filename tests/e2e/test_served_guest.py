"""A machine runs from a recovery point that is served, writes to it, and the replica goes on untouched."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from blockreplica.recovery.pivot import read_pivot
from blockreplica.recovery.serve import PLUGIN
from e2e.conftest import Boot
from e2e.guest import nbd
from e2e.journal import WRITE, complaints, format_disk, numbers_in
from replication.world import World, write

MIB = 1 << 20
SCRIPT = """
mount -t ext4 /dev/vda /mnt && say mounted 1
cat /mnt/mark 2>/dev/null && say marked 1
dd if=/dev/zero bs=4096 count=500 2>/dev/null | tr '\\0' 'x' > /mnt/new && sync && say written 1
umount /mnt
"""


@pytest.mark.skipif(not PLUGIN.exists(), reason="the plugin was not built: nbdkit-plugin-dev is missing")
def test_a_guest_runs_from_a_point_and_the_replica_replicates_on(boot: Boot, tmp_path: Path) -> None:
    world = World(tmp_path, [format_disk(tmp_path / "vm0.img", 64 * MIB)], block_size=65536)
    world.begin()
    world.sync()
    write(world.image, (0, b"\xee" * 3 * MIB))  # no file system any more
    world.sync()
    with world.vm.replica.serve("1.1", writable=True) as served:
        guest = boot(SCRIPT, nbd(served.uri))
        guest.wait_for("mounted")
        write(world.image, (5 * MIB, b"\xdd" * MIB))
        world.sync()
        assert "written 1" in guest.wait()
    assert {point.id: world.read(point) for point in world.vm.points()} == {
        point: models[0] for point, models in world.models.items()
    }


@pytest.mark.skipif(not PLUGIN.exists(), reason="the plugin was not built: nbdkit-plugin-dev is missing")
def test_a_guest_outlives_the_replica_that_its_disk_came_from(boot: Boot, tmp_path: Path) -> None:
    """serve-point --pivot: begun slowly, ended, taken up; then the store is taken away. The guest writes all the time,
    and its file system is whole in the end."""
    world = World(tmp_path, [format_disk(tmp_path / "vm0.img", 64 * MIB)], block_size=65536)
    write(world.image, (40 * MIB, os.urandom(8 * MIB)))
    world.begin()
    world.sync()
    target, socket = tmp_path / "pivoted.img", tmp_path / "p.sock"
    with world.vm.replica.serve("1.1", pivot=target, socket=socket, rate=1 << 16) as served:
        guest = boot(WRITE, nbd(served.uri, reconnect_s=60))
        guest.wait_for("done", 3)
        assert not read_pivot(target).complete, "nothing was left to copy when the guest had begun"
    with world.vm.replica.serve(pivot=target, socket=socket) as served:
        while not read_pivot(target).complete:
            assert not served.wait(0.05), served.told()
        shutil.rmtree(world.store)
        acknowledged = guest.wait_for("done", guest.last("done") + 30)
        assert not complaints(guest.said())
        guest.kill()
        begun = guest.last("begin")
    assert acknowledged <= numbers_in(target) <= begun
