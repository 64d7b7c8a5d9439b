"""A machine runs from a recovery point that is served, writes to it, and the replica goes on untouched."""

from __future__ import annotations

from pathlib import Path

import pytest

from blockreplica.recovery.serve import PLUGIN
from e2e.conftest import Boot
from e2e.guest import nbd
from e2e.journal import format_disk
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
