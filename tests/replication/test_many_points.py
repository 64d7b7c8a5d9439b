"""Points number in the thousands: a sync asks no more of the file system for that, a reader one look a point."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from blockreplica.files import File, Files

from .world import World, write


@contextmanager
def counted(patch: pytest.MonkeyPatch) -> Iterator[Counter[str]]:
    """How often the seam is asked for what."""
    calls: Counter[str] = Counter()

    def counting(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            calls[name] += 1
            if name == "Files.open":
                calls[f"open {arguments[1].suffix}"] += 1
            return real(*arguments, **options)

        return call

    with patch.context() as patched:
        for part in (Files, File):
            for name in ("open", "exists", "names", "pread_into", "pwrite", "unlink", "rename", "sync", "sync_folder"):
                if hasattr(part, name):
                    whole = f"{part.__name__}.{name}"
                    patched.setattr(part, name, counting(whole, getattr(part, name)))
        yield calls


def grow(world: World, count: int) -> None:
    for _ in range(count):
        number = len(world.models) + 1
        write(world.image, (number * 4096, bytes([number]) * 4096))
        world.sync()


@pytest.fixture
def world(tmp_path: Path) -> World:
    """A relationship that keeps all."""
    made = World.make(tmp_path, keep=1000)
    write(made.image, (0, b"begin"))
    made.protect()
    return made


def test_a_sync_asks_the_file_system_no_more_often_the_more_points_there_are(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Issue 4: points number in the thousands without slowing a sync. Listing a folder is one call, however long."""
    asked = []
    for count in (5, 30):
        grow(world, count)
        write(world.image, (count * 4096, b"once more"))
        with counted(monkeypatch) as calls:
            world.sync()
        asked.append(calls)
    assert asked[0]["Files.open"] > 10
    assert asked[0] == asked[1]
    folders = ["points", "undo"]
    assert asked[1]["Files.names"] <= len(folders) + 5  # those of the primary's logs are short


def test_a_reader_opens_a_small_undo_index_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Issue 4: nor the opening of a point."""
    grow(world, 30)
    oldest = world.vm.replica.base.points()[0]
    with counted(monkeypatch) as calls:
        content = world.vm.replica.read(oldest, 0, 200_000)
    assert content == world.models[oldest.id][0][:200_000]
    looks_for_newer = 5
    assert 30 <= calls["open .index"] <= 30 + looks_for_newer
