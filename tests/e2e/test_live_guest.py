"""A machine that runs while it is replicated: whatever is killed, each point is one instant of its disk."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import blockreplica as br
from blockreplica.errors import BlockReplicaError, NotFoundError, StorageError
from e2e.conftest import Boot
from e2e.guest import Guest, nbd
from e2e.journal import CHECK, WRITE, Bounds, complaints, format_disk, numbers_in

MIB = 1 << 20
SIZE = 64 * MIB
ROUNDS = int(os.environ.get("BLOCKREPLICA_GUEST_ROUNDS", "10"))
SEED = int(os.environ.get("BLOCKREPLICA_SEED", "3"))


class Site:
    """An image with an ext4, its export, and its relationship once it is protected."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.image = format_disk(folder / "vm.img", SIZE)
        self.export = self._serve()
        self.vm: br.Relationship | None = None
        self.bounds: list[Bounds] = []
        self.acknowledged = self.begun = 0

    def _serve(self) -> br.Export:
        return br.export(self.image, socket=self.folder / "nbd")

    def kill_export(self) -> None:
        """As kill -9 does."""
        os.kill(self.export.pid, signal.SIGKILL)
        with contextlib.suppress(StorageError):
            self.export.wait()
        self.export.close()

    def serve_again(self) -> None:
        """After it died."""
        self.export = self._serve()

    def disk(self, *, reconnect_s: int = 0) -> dict[str, Any]:
        """The export, as a guest's disk."""
        return nbd(self.export.uri, reconnect_s=reconnect_s)

    def sync(self, guest: Guest, *, action: str = "delta") -> None:
        """Make a point, while the guest goes on or after its end, and note what it must hold."""
        self.acknowledged = max(self.acknowledged, guest.last("done"))
        if self.vm is None:
            self.vm = br.protect(self.image, self.folder / "store", name="vm", keep=1000)
            assert self.vm.last is not None
            result = self.vm.last
        else:
            result = self.vm.sync()
        assert result.action == action, result
        self.begun = max(self.begun, guest.last("begin"))
        self.bounds.append(Bounds(result.point, self.acknowledged, self.begun))

    def note(self, guest: Guest) -> None:
        """What a guest had said at its end."""
        self.acknowledged = max(self.acknowledged, guest.last("done"))
        self.begun = max(self.begun, guest.last("begin"))

    def check_points(self) -> None:
        """Invariant 4: every point holds what was acknowledged before it and nothing begun after it."""
        assert self.vm is not None
        found = []
        for bounds in self.bounds:
            target = self.folder / f"{bounds.point}.img"
            self.vm.replica.recover(bounds.point, target)
            found.append(numbers_in(target))
            assert bounds.acknowledged <= found[-1] <= bounds.begun, (bounds, found)
        assert found == sorted(set(found)), "a later point does not hold more"

    def check_newest_is_the_image(self) -> None:
        """Once nobody writes any more."""
        assert self.newest().read_bytes() == self.image.read_bytes()

    def newest(self) -> Path:
        """The newest point, recovered by `check_points`."""
        return self.folder / f"{self.bounds[-1].point}.img"


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """A served image; whatever becomes of the test, nothing serves it afterwards."""
    monkeypatch.setenv("BLOCKREPLICA_STATE", str(tmp_path / "state"))
    try:
        site = Site(tmp_path)
    except NotFoundError as missing:
        pytest.skip(str(missing))
    yield site
    with contextlib.suppress(BlockReplicaError, ProcessLookupError):
        os.kill(site.export.pid, signal.SIGKILL)
        site.export.wait()


def let_write(guest: Guest, count: int = 20) -> None:
    """Let a guest acknowledge so many numbers more than it has begun."""
    guest.wait_for("done", guest.last("begin") + count)
    assert not complaints(guest.said()), guest.told()


def test_a_guest_killed_while_it_writes_is_recovered_as_it_was_at_each_point(site: Site, boot: Boot) -> None:
    """Invariants 1 and 4: initial replication, deltas, and the last sync, which finds what the killed guest left.

    The machine that boots in the end has the served point as its disk.
    """
    guest = boot(WRITE, site.disk())
    let_write(guest, 10)
    site.sync(guest, action="initial")
    for _ in range(2):
        let_write(guest)
        site.sync(guest)
    let_write(guest)
    guest.kill()
    site.sync(guest)
    site.check_points()
    site.check_newest_is_the_image()
    assert site.vm is not None
    with site.vm.replica.serve(site.bounds[-1].point, socket=site.folder / "point", writable=True) as served:
        said = boot(CHECK, nbd(served.uri)).wait()
    assert f"journal {numbers_in(site.newest())}" in said
    assert "unmounted" in said
    assert not complaints(said)


def test_a_guest_lives_on_when_its_export_is_killed_and_comes_back(site: Site, boot: Boot) -> None:
    """Invariant 1, rule 1: what was answered before the kill is in a delta; the guest sees a slow disk and no error."""
    guest = boot(WRITE, site.disk(reconnect_s=60))
    let_write(guest, 10)
    site.sync(guest, action="initial")
    let_write(guest)
    site.kill_export()
    site.serve_again()
    let_write(guest)
    site.sync(guest)
    let_write(guest)
    site.kill_export()
    guest.kill()
    site.sync(guest)
    site.check_points()
    site.check_newest_is_the_image()


@pytest.mark.campaign
def test_no_kill_of_guest_or_export_loses_an_acknowledged_number(site: Site, boot: Boot) -> None:
    """Invariants 1 and 4, over many rounds of a seed's choice."""
    chance = random.Random(SEED)
    print(f"BLOCKREPLICA_SEED={SEED}")
    for number in range(ROUNDS):
        guest = boot(WRITE, site.disk(reconnect_s=60))
        found = guest.wait_for("found")
        assert site.acknowledged <= found <= site.begun
        for what in chance.choices(["sync", "kill export", "write"], k=5):
            let_write(guest, chance.randint(1, 30))
            time.sleep(chance.random() / 20)
            if what == "sync":
                site.sync(guest, action="delta" if site.vm else "initial")
            elif what == "kill export":
                site.kill_export()
                site.serve_again()
        time.sleep(chance.random() / 10)
        killed = chance.choice(["guest", "guest, then export", "export, then guest"])
        print(f"round {number}: {killed}")
        if killed == "export, then guest":
            site.kill_export()
        guest.kill()
        if killed == "guest, then export":
            site.kill_export()
        site.note(guest)
        if killed != "guest":
            site.serve_again()
    site.sync(guest, action="delta" if site.vm else "initial")
    site.check_points()
    site.check_newest_is_the_image()
