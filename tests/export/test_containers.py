"""Rules 3 and 6 where the image is a container: what grows, and whose owner changes, is not what the tracker writes."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

import blockreplica as br
from images.test_formats import change, made
from tracking.test_full_disk import a_disk, free

from .conftest import MIB
from .test_formats import pytestmark as needs_tools
from .test_formats import same
from .tools import qemu_io

Serve = Callable[..., br.Export]
pytestmark = needs_tools


def test_rule_3_a_log_leaves_a_container_on_its_disk_what_it_may_still_need(tmp_path: Path, serve: Serve) -> None:
    """What is shown of it lies on another file system, and never grows there."""
    with a_disk(tmp_path / "disk", "40m") as disk:
        image = disk / "vm.qcow2"
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", image, "32M"], check=True)
        with serve(image, log_limit=1 << 30) as served:
            largest = 0
            for _ in range(40):
                qemu_io(served.uri, "write -P 1 0 1M")
                assert free(disk) >= 32 * MIB - image.stat().st_blocks * 512
                largest = max(largest, served.status().log_bytes)
                if served.status().state != "tracking":
                    break
            assert served.status().state == "bitmap only"
            assert largest > 2 * MIB
            qemu_io(served.uri, "write -P 2 0 32M")
            assert served.status().state == "bitmap only"


@pytest.mark.parametrize(("ignore", "found", "action"), [(False, "suspect", "resync"), (True, "closed", "delta")])
def test_rule_6_a_container_whose_owner_alone_changed_is_compared_unless_that_means_nothing(
    tmp_path: Path, serve: Serve, ignore: bool, found: str, action: str
) -> None:
    """libvirt takes the file back; what it shows of a container has no owner that anybody changes."""
    image = made(tmp_path / "vm.qcow2", "qcow2")
    with serve(image):
        vm = br.protect(image, tmp_path / "store", name="vm", ignore_ctime=ignore)
    with serve(image) as served:
        qemu_io(served.uri, "write -P 3 6M 64k")
    os.chmod(image, 0o640)  # as a chown does, also for those who may not
    with serve(image) as served:
        assert served.status().found == found
        qemu_io(served.uri, "write -P 4 7M 64k")
        assert vm.sync().action == action
    change(image, "qcow2", "write -P 5 8M 64k")
    os.chmod(image, 0o600)
    with serve(image) as served:
        assert served.status().found == "suspect", "somebody wrote it, whatever its ctime means"
        assert vm.sync().action == "resync"
    same(vm, image, tmp_path)
