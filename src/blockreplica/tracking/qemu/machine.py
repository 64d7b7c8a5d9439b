"""The disks of one running QEMU: found, cut at one instant, and let go of after the acknowledgement.

    prepare   clear what a dead sync left, fold the trail of bitmaps, make scratch images
    cut       one transaction over all disks: new bitmap, old one disabled, copying before writing begins
    read      old content and what the frozen bitmaps name, over NBD
    acknowledge   only now the frozen bitmaps go (invariant 8)

Bitmaps are persistent where the format can hold them (qcow2); elsewhere they end with QEMU. After a crash of QEMU they
are inconsistent or gone. Either way the next sync compares everything: no doubt is ever resolved in favour of clean.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

from ...errors import NotFoundError, RefusedError, StorageError, UsageError
from ...images.nbd import NbdFile
from ..types import Cut
from .address import Address
from .bitmaps import Bitmap, action, bitmap_name, fault, folding, ours, rotation
from .fleece import Disk, Fleece
from .monitor import Monitor

_TRIES = 3


class Machine:
    """A connection to QEMU for one relationship. `close` leaves nothing behind but bitmaps."""

    def __init__(self, address: Address, relationship: UUID) -> None:
        self.address, self._relationship = address, relationship
        self._qmp = Monitor(address.socket)
        self._fleece: Fleece | None = None
        self._trails: list[list[Bitmap]] = []
        self._faults: list[str] = []
        self._merged = self._above = 0
        try:
            self._disks = [self._disk(node) for node in self._nodes()]
        except BaseException:
            self._qmp.close()
            raise

    @property
    def disks(self) -> list[Disk]:
        """The disks, as they are."""
        return self._disks

    def prepare(self, known: Sequence[Collection[str]], *, above: int = 0) -> None:
        """All that may take its time before a cut. `known`: for each disk the cuts (chains) that must be kept apart.
        Where QEMU has lost its bitmaps, epochs go on above `above`: no later cut may look like an earlier one."""
        fleece = self._fleeced()
        fleece.clear()
        self._above = above
        nodes = self._nodes()
        self._disks = [self._disk(node) for node in nodes]
        trails = [ours(node, self._relationship) for node in nodes]
        self._faults = [fault(trail) for trail in trails]
        self._drop_merged()
        actions = []
        for disk, trail, bad, chains in zip(self._disks, trails, self._faults, known, strict=True):
            actions += folding(disk.node, trail, () if bad else chains)
        if actions:
            self._qmp("transaction", actions=actions)
        self._trails = [ours(node, self._relationship) for node in self._nodes()]
        self._make_scratch(fleece)

    def cut(self) -> list[Cut]:
        """Cut all disks at one instant; their content of that instant can be read from then on."""
        chain, cuts, actions = uuid4(), [], []
        for disk, trail, node in zip(self._disks, self._trails, self._nodes(), strict=True):
            epoch = max(self._above, trail[-1].epoch if trail else 0) + 1
            name = bitmap_name(self._relationship, epoch, chain)
            actions += rotation(disk.node, trail, name, persistent=_persistent(node))
            cuts.append((epoch, disk.size))
        actions += self._fleeced().actions()
        self._qmp("transaction", actions=actions)
        now = time.time()
        return [Cut(self._relationship, epoch, size, now, chain) for epoch, size in cuts]

    def lost(self, index: int, epoch: int, chain: str) -> str:
        """Why it is not known what changed since a cut; empty when it is."""
        if self._faults[index]:
            return self._faults[index]
        if any((bitmap.epoch, str(bitmap.chain)) == (epoch, chain) for bitmap in self._trails[index]):
            return ""
        return "has no dirty bitmap of the last point: its QEMU was started anew, or the bitmap was removed"

    def dirty_bytes(self, index: int, epoch: int) -> int:
        """At most so many bytes changed between a cut and the latest one."""
        return min(sum(each.count for each in self._frozen(index, epoch)), self._disks[index].size)

    def open(self, index: int, bitmap: str | None = None) -> NbdFile:
        """A disk as it was at the latest cut; with `bitmap` its extents may be asked for."""
        return self._fleeced().open(index, bitmap)

    def changed(self, index: int, epoch: int) -> str:
        """The bitmap that names what changed since the cut of `epoch`."""
        frozen, node = self._frozen(index, epoch), self._disks[index].node
        if len(frozen) == 1:
            return frozen[0].name
        self._merged += 1
        name = f"blockreplica-{self._relationship.hex}-merged-{self._merged}"
        names = [bitmap.name for bitmap in frozen]
        actions = [
            action("block-dirty-bitmap-add", node=node, name=name, disabled=True),
            action("block-dirty-bitmap-merge", node=node, target=name, bitmaps=names),
        ]
        self._qmp("transaction", actions=actions)
        return name

    def check(self) -> None:
        """StorageError unless what was read since the cut is what was there at the cut."""
        self._fleeced().check()

    def acknowledge(self, index: int, epoch: int) -> None:
        """The replica has the disk up to the cut of `epoch`: the bitmaps of what was before go."""
        self._fleeced().release()
        node = self._nodes()[index]
        for bitmap in ours(node, self._relationship):
            if bitmap.epoch < epoch:
                self._qmp("block-dirty-bitmap-remove", node=node["node-name"], name=bitmap.name)

    def forget(self) -> None:
        """Take all bitmaps of the relationship out of QEMU."""
        self._fleeced().clear()
        for node in self._nodes():
            for bitmap in ours(node, self._relationship):
                self._qmp("block-dirty-bitmap-remove", node=node["node-name"], name=bitmap.name)

    def state(self, index: int) -> tuple[str, int | None]:
        """How a disk is tracked, and how many bytes are dirty."""
        trail = ours(self._nodes()[index], self._relationship)
        if not trail:
            return "untracked", None
        return ("changed" if fault(trail) else "tracking"), sum(bitmap.count for bitmap in trail)

    def close(self) -> None:
        """Let QEMU stop keeping old content, and disconnect."""
        try:
            if self._fleece is not None:
                self._fleece.clear()
                self._drop_merged()
        finally:
            self._qmp.close()

    def _make_scratch(self, fleece: Fleece) -> None:
        """From the moment that a disk has its scratch image, QEMU does not resize it: what it is then, it is at the
        cut."""
        for _ in range(_TRIES):
            fleece.prepare(self._disks)
            prepared, self._disks = self._disks, [self._disk(node) for node in self._nodes()]
            if [disk.size for disk in prepared] == [disk.size for disk in self._disks]:
                return
        raise StorageError(f"{self.address}: a disk is resized again and again; sync again when that has ended")

    def _fleeced(self) -> Fleece:
        if self._fleece is None:
            tag = f"br{self._relationship.hex[:12]}"
            self._fleece = Fleece(self._qmp, tag, self._scratch(), self.address.nbd)
        return self._fleece

    def _scratch(self) -> Path:
        if self.address.scratch is not None:
            return self.address.scratch
        if self._disks[0].path is None:
            raise UsageError(f"{self.address}: say where old content may be kept while a sync reads: add &scratch=DIR, "
                             "a folder that QEMU can write, with as much room as the disks have")  # fmt: skip
        return self._disks[0].path.parent

    def _frozen(self, index: int, epoch: int) -> list[Bitmap]:
        return [bitmap for bitmap in self._trails[index] if bitmap.epoch >= epoch]

    def _drop_merged(self) -> None:
        for node in self._nodes():
            for each in node.get("dirty-bitmaps", []):
                if each.get("name", "").startswith(f"blockreplica-{self._relationship.hex}-merged-"):
                    self._qmp("block-dirty-bitmap-remove", node=node["node-name"], name=each["name"])

    def _nodes(self) -> list[dict[str, Any]]:
        nodes = {node["node-name"]: node for node in self._qmp("query-named-block-nodes", flat=True)}
        missing = [name for name in self.address.nodes if name not in nodes]
        if missing:
            known = ", ".join(sorted(name for name in nodes if not name.startswith("br"))) or "none"
            raise NotFoundError(f"{self.address.socket}: QEMU has no node {missing[0]}; it has: {known}")
        return [nodes[name] for name in self.address.nodes]

    def _disk(self, node: dict[str, Any]) -> Disk:
        if node["ro"]:
            raise RefusedError(f"{self.address.socket}: node {node['node-name']} is read-only: nothing changes there")
        name = node["image"].get("filename", "")
        path = Path(name) if os.path.isabs(name) else self._qmp.opened(name)
        try:
            regular = path is not None and stat.S_ISREG(os.stat(path).st_mode)
        except OSError:
            regular = False
        image = node["image"]
        return Disk(node["node-name"], image["virtual-size"], image.get("actual-size", 0), path if regular else None)


def _persistent(node: dict[str, Any]) -> bool:
    """Whether the format stores dirty bitmaps: qcow2 from its version 3 on."""
    specific = node["image"].get("format-specific", {})
    return bool(node["drv"] == "qcow2" and specific.get("data", {}).get("compat") == "1.1")
