"""Log mode transit: only a bitmap between syncs, and still every point is one instant (rule 10, invariant 4)."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from msgspec.structs import replace

import blockreplica as br
from blockreplica.progress import Progress
from blockreplica.protection import Relationship

from .world import MIB, World, artifacts, foreign_write, write
from .writers import Writer


@pytest.fixture
def world(tmp_path: Path) -> World:
    """An image replicated once; from then on its log is kept in transit only."""
    world = World.make(tmp_path, sizes=(8 * MIB,), log="transit")
    write(world.image, (0, b"tracked"))
    world.protect()
    return world


def test_a_delta_is_what_the_bitmap_names_and_no_log_is_left(world: World) -> None:
    with br.track(world.image) as image:
        assert image.status().log == "transit"
        image.pwrite(b"n" * 5000, 3 * MIB)
        image.zero(5 * MIB, 70_000)
        result = world.sync()
        assert (result.action, result.kind) == ("delta", "crash-consistent")
        assert "in transit" in result.reason
        assert result.bytes_scanned <= 4 * 65536
        assert image.status().log_bytes == 0
        assert world.sync().bytes_sent == 0
    assert not [name for name in artifacts(world.image) if name.endswith(".hrl")]
    world.check()


def test_a_closed_image_needs_no_log_at_all(world: World) -> None:
    for number in range(3):
        write(world.image, (number * MIB, bytes([number + 1]) * 9000))
        assert world.sync().action == "delta"
    world.check()


def test_rule_8_lost_cursors_do_not_take_away_what_a_sync_is_about_to_read(world: World) -> None:
    with br.track(world.image) as image:
        image.pwrite(b"n" * 5000, 3 * MIB)
        world.image.with_name(world.image.name + ".cursors").write_bytes(b"rubbish")
        assert world.sync().action == "delta"
    world.check()


class DuringCopy(Progress):
    """Calls somebody once the dirty blocks are being read."""

    def __init__(self, call: object) -> None:
        self._call = call

    def start(self, what: str, total: int) -> None:
        if what != "delta" and callable(self._call):
            self._call()


def test_invariant_4_what_is_written_while_the_dirty_blocks_are_read_is_in_the_point_whole(world: World) -> None:
    with br.track(world.image, log_limit=1 << 30) as image:  # half an image of 8 MiB is soon full
        first = image.pread(MIB, 0)
        writer = Writer(image, 0, MIB, seed=11, first=first)
        stop = threading.Event()

        def work() -> None:
            while not stop.is_set():
                writer.step()

        for _ in range(20):
            writer.step()
        thread = threading.Thread(target=work)
        thread.start()
        try:
            states = []
            for _ in range(4):
                before = writer.done
                result = world.vm.sync()
                assert (result.action, result.kind) == ("delta", "crash-consistent")
                point = world.vm.points()[-1]
                states.append(writer.state(world.read(point)))
                assert before <= states[-1] <= writer.begun
        finally:
            stop.set()
            thread.join()
        assert states == sorted(states)


def test_rule_10_a_sync_that_dies_lets_go_of_nothing(world: World) -> None:
    with br.track(world.image) as image:
        image.pwrite(b"1" * 5000, MIB)

        def die() -> None:
            image.pwrite(b"2" * 5000, 2 * MIB)
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            world.vm.sync(progress=DuringCopy(die))
        image.pwrite(b"3" * 5000, 3 * MIB)
        assert world.sync().action == "delta"
        world.check()


def test_a_change_behind_the_tracker_is_still_compared_whole(world: World) -> None:
    write(world.image, (MIB, b"x"))
    foreign_write(world.image, 6 * MIB, b"foreign")
    assert world.sync().action == "resync"
    world.check()


def test_the_mode_changes_both_ways(world: World) -> None:
    with br.track(world.image) as image:
        for mode in ("always", "transit", "always"):
            world.held = Relationship(replace(world.vm.definition, log=mode))  # type: ignore[arg-type]
            image.pwrite(mode.encode() * 1000, MIB)
            world.sync()
            image.pwrite(mode.encode() * 1000, 2 * MIB)
            assert (image.status().log, image.status().log_bytes > 0) == (mode, mode == "always")
            result = world.sync()
            assert (result.action, "transit" in result.reason) == ("delta", mode == "transit")
    world.check()


def test_the_command_changes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BLOCKREPLICA_STATE", str(tmp_path / "state"))
    image = tmp_path / "vm.img"
    image.write_bytes(bytes(MIB))
    write(image, (0, b"x"))
    br.protect(image, tmp_path / "store", name="vm", log="transit")
    write(image, (0, b"y"))
    assert "transit" in br.relationship("vm").sync().reason
    assert br.set_log("vm", "always").definition.log == "always"
    br.relationship("vm").sync()
    write(image, (0, b"z"))
    assert "transit" not in br.relationship("vm").sync().reason
