"""An undo index that was sealed, and grows again: its sync ended before the point, and the next one takes it up."""

from __future__ import annotations

import random
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from blockreplica.kernels import Overlay
from blockreplica.stores import PointReader, Replica
from stores.model import changed, commit, open_replica, put
from stores.test_directory import history


class Readers:
    """Of every point both kinds of reader, open all the time."""

    def __init__(self, replica: Replica, models: dict[int, bytes], stack: ExitStack) -> None:
        self._models = models
        points = replica.points()
        self._served: dict[int, Overlay] = {
            point.epoch: stack.enter_context(closing(replica.place(point, 0).overlay())) for point in points
        }
        self._read: dict[int, PointReader] = {
            point.epoch: stack.enter_context(replica.reader(point, 0)) for point in points
        }

    def judge(self, when: str) -> None:
        """Each point is what it was."""
        for epoch, model in self._models.items():
            for reader in (self._served[epoch], self._read[epoch]):
                content = bytearray(len(model))
                reader.pread_into(content, 0)
                assert content == model, f"{type(reader).__name__} of point {epoch}, {when}"


def sealed_without_a_point(replica: Replica, writes: list[tuple[int, bytes]]) -> None:
    """A sync that meets a full disk, or dies, between its undo index and its point."""
    with replica.locked(), closing(replica.session()) as session:
        session.start("delta", heal=False)
        put(session, writes)
        session.disks[0].sync()
        session.disks[0].seal()


@pytest.mark.parametrize("looks", [True, False])
@pytest.mark.parametrize("seed", range(4))
def test_rule_15_a_sealed_index_that_grows_again_is_seen(tmp_path: Path, seed: int, *, looks: bool) -> None:
    """`looks`: whether readers look while it grows, or only once it is sealed again, perhaps with the old inode."""
    models, rng = history(tmp_path / "store", 5, seed), random.Random(seed)
    replica = open_replica(tmp_path / "store")
    with ExitStack() as stack:
        readers = Readers(replica, models, stack)
        readers.judge("before")
        for _ in range(3):
            sealed_without_a_point(replica, changed(rng, models[5])[1])
            readers.judge("sealed without a point")
            with replica.locked(), closing(replica.session()) as session:
                session.start("delta", heal=False)
                put(session, changed(rng, models[5])[1])
                session.disks[0].flush()
                if looks:
                    readers.judge("grown again")
                session.disks[0].sync()
                session.disks[0].seal()
            readers.judge("sealed again")
        with replica.locked(), closing(replica.session()) as session:
            session.start("delta", heal=False)
            put(session, changed(rng, models[5])[1])
            commit(session)
        readers.judge("behind the next point")
        for _ in range(3):
            sealed_without_a_point(replica, changed(rng, models[5])[1])
        readers.judge("at the end")
