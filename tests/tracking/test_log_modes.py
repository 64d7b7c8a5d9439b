"""Log modes: in transit an epoch has its bitmap alone, unless a cut began it (design, "Two log modes")."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from uuid import uuid4

import pytest

import blockreplica as br
from blockreplica.bitmap import DirtyBitmap
from blockreplica.extents import Extent
from blockreplica.hrl import LogReader
from blockreplica.tracking import ImageSource

GRANULE = 65536


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """An image of 16 granules."""
    path = tmp_path / "vm.img"
    path.write_bytes(bytes(16 * GRANULE))
    return path


def left(path: Path) -> list[str]:
    """What is left of ended epochs."""
    return sorted(name.removeprefix("vm.img.") for name in os.listdir(path.parent) if name.startswith("vm.img.0"))


def test_in_transit_an_epoch_ends_with_its_bitmap_alone(path: Path) -> None:
    with br.track(path, log="transit") as image:
        image.pwrite(b"x" * 100, 3 * GRANULE)
        status = image.status()
        assert (status.state, status.log, status.log_bytes, status.log_failed) == ("tracking", "transit", 0, False)
        assert status.dirty_bytes == GRANULE
    assert left(path) == ["000001.dirty"]
    assert list(DirtyBitmap.open(path.with_name("vm.img.000001.dirty")).extents()) == [Extent(3 * GRANULE, GRANULE)]


def test_a_cut_begins_an_epoch_with_a_log_and_asking_for_the_mode_again_ends_that(path: Path) -> None:
    with br.track(path, log="transit") as image:
        image.pwrite(b"a", 0)
        image.cut()
        image.pwrite(b"b", GRANULE)
        image.cut()
        image.pwrite(b"c", 2 * GRANULE)
        image.log("transit")
        image.pwrite(b"d", 3 * GRANULE)
    assert left(path) == ["000001.dirty", "000002.dirty", "000002.hrl", "000003.dirty"]
    with LogReader.open(path.with_name("vm.img.000002.hrl")) as log:
        log.check()
        assert [row["offset"] for chunk in log.entries() for row in chunk] == [GRANULE]
    third = DirtyBitmap.open(path.with_name("vm.img.000003.dirty"))
    assert list(third.extents()) == [Extent(2 * GRANULE, 2 * GRANULE)], "what was written while there was a log"


def test_the_mode_is_kept_over_opens_until_another_one_is_asked_for(path: Path) -> None:
    br.track(path, log="transit").close()
    with br.track(path) as image:
        assert image.status().log == "transit"
        image.log("always")
        image.pwrite(b"x", 0)
        image.cut()  # from here on
        image.pwrite(b"y", 0)
    assert "000002.hrl" in left(path)
    with br.track(path) as image:
        assert image.status().log == "always"
        image.pwrite(b"z", 0)
    assert "000003.hrl" in left(path)


def test_rule_1_a_tracker_killed_in_transit_leaves_what_it_wrote_dirty(path: Path) -> None:
    program = (
        "import blockreplica as br, sys, time\n"
        f"image = br.track({str(path)!r}, log='transit')\n"
        f"image.pwrite(b'x', 5 * {GRANULE}); print('done', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"done\n"
        finally:
            process.send_signal(signal.SIGKILL)
    br.track(path).close()
    assert list(DirtyBitmap.open(path.with_name("vm.img.000001.dirty")).extents()) == [Extent(5 * GRANULE, GRANULE)]


def test_another_process_asks_for_the_mode_by_the_control_socket_or_without_a_tracker(path: Path) -> None:
    relationship = uuid4()
    with br.track(path) as image:
        image.pwrite(b"x", 0)
        with ImageSource.open(path) as source:
            cut = source.cut()
            assert cut is not None
            image.pwrite(b"y", 0)
            source.set_cursor(relationship, cut.epoch, log="transit")
        status = image.status()
        assert (status.log, status.log_bytes) == ("transit", 0)
    with ImageSource.open(path) as source:
        assert source.log_mode() == "transit"
        source.set_cursor(relationship, 2)
        assert source.log_mode() == "always"


def test_with_two_relationships_there_is_always_a_log(path: Path) -> None:
    with br.track(path) as image:
        image.pwrite(b"x", 0)
        image.cut()
        with ImageSource.open(path) as source:
            source.set_cursor(uuid4(), 1)
            source.set_cursor(uuid4(), 1, log="transit")
        assert image.status().log == "always"
