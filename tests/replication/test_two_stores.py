"""One image replicated to several stores: epochs belong to the image, each relationship has its cursor (rule 8)."""

from __future__ import annotations

from pathlib import Path

import pytest

from blockreplica import track
from blockreplica.progress import Progress

from .world import MIB, Interrupting, World, artifacts, write

SIZE = 2 * MIB + 700


@pytest.fixture
def worlds(tmp_path: Path) -> tuple[World, World]:
    """Two relationships over one tracked image, not protected yet."""
    first = World.make(tmp_path, sizes=(SIZE,), name="first")
    write(first.image, (0, b"begin"))
    return first, World(tmp_path, first.images, name="second", block_size=65536)


def test_a_log_stays_until_both_have_it(worlds: tuple[World, World]) -> None:
    first, second = worlds
    first.protect()
    second.protect()
    write(first.image, (10, b"one"))
    first.sync()
    assert artifacts(first.image) == ["000002.dirty", "000002.hrl"]
    write(first.image, (5000, b"two"))
    result = second.sync()
    assert (result.action, result.bytes_dirty) == ("delta", 6)
    assert artifacts(first.image) == ["000003.dirty", "000003.hrl"]
    assert first.sync().bytes_dirty == 3
    assert artifacts(first.image) == []
    first.check()
    second.check()


def test_each_at_its_own_pace_by_deltas_alone(worlds: tuple[World, World]) -> None:
    first, second = worlds
    first.protect()
    second.protect()
    for round_ in range(6):
        write(first.image, (round_ * 70_000, bytes([round_ + 1]) * 6000))
        assert first.sync().action == "delta"
        if round_ % 3 == 2:
            assert second.sync().action == "delta"
    assert len(first.check()) == 7
    assert len(second.check()) == 3


def test_the_first_copy_of_one_keeps_its_logs_while_the_other_syncs(worlds: tuple[World, World]) -> None:
    first, second = worlds
    with track(first.image) as image:
        once = first.protect().bytes_scanned
        second.begin()

        class Busy(Progress):
            def start(self, what: str, total: int) -> None:
                if what == "initial":
                    image.pwrite(b"during the copy", 100)
                    first.vm.sync()
                    image.pwrite(b"and after that sync", 300)
                    first.vm.sync()

        result = second.note(second.vm.sync(progress=Busy()))
        assert result.action == "initial"
        assert result.bytes_scanned < once * 3 // 2, "the image was gone through again"
        second.check()
    assert second.sync().action == "delta"


def test_a_copy_that_was_interrupted_keeps_its_logs_while_the_other_syncs(
    worlds: tuple[World, World], small_windows: int
) -> None:
    first, second = worlds
    second.block_size = 4096
    first.protect()
    second.begin()
    with pytest.raises(KeyboardInterrupt):
        second.vm.sync(progress=Interrupting(1))
    write(first.image, (100, b"meanwhile"))
    first.sync()
    write(first.image, (SIZE - 100, b"meanwhile"))
    first.sync()
    result = second.sync()
    assert result.bytes_scanned < SIZE * 3 // 4, f"it began again, with windows of {small_windows} blocks"
    second.check()
    assert artifacts(first.image) == []


def test_a_relationship_that_ends_lets_go_of_what_it_alone_kept(worlds: tuple[World, World]) -> None:
    first, second = worlds
    first.protect()
    second.protect()
    write(first.image, (10, b"one"))
    first.sync()
    assert artifacts(first.image) != []
    second.vm.forget()
    assert artifacts(first.image) == []
    write(first.image, (10, b"two"))
    assert first.sync().action == "delta"
    first.check()


def test_a_lost_log_costs_each_of_them_a_partial_resync(worlds: tuple[World, World]) -> None:
    first, second = worlds
    first.protect()
    second.protect()
    write(first.image, (SIZE - 5, b"lost"))
    first.names().log(2).unlink()
    assert first.sync().action == "partial-resync"
    assert second.sync().action == "partial-resync"
    assert artifacts(first.image) == []
    first.check()
    second.check()


def test_damaged_cursors_cost_comparing_and_no_point(worlds: tuple[World, World]) -> None:
    first, second = worlds
    first.protect()
    second.protect()
    write(first.image, (10, b"one"))
    first.names().cursors.write_bytes(b"rubbish")
    assert first.sync().action == "delta"
    assert second.sync().action in ("delta", "resync")
    write(first.image, (10, b"two"))
    assert (first.sync().action, second.sync().action) == ("delta", "delta")
    first.check()
    second.check()
