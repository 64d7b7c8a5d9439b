"""The disks of a QEMU as they were at one instant, readable over NBD while the guest goes on writing.

For each disk a scratch image is laid behind it (`backing`), and a `blockdev-backup sync=none` job copies whatever the
guest is about to overwrite into it first. The jobs start in the transaction that makes the cut. The scratch images
have all their room beforehand (qcow2 with `extended-l2`, which may be preallocated *and* have a backing file): that
QEMU fails the guest's write when copying fails, and this leaves nothing to fail for want of room (correctness.md 12).

A sync that is killed leaves jobs, nodes and exports in QEMU; all carry the relationship's tag, and the next one clears
them. The monitor serves one client at a time, so nobody else of that tag can be at work.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from ...errors import BusyError, NoSpaceError, RefusedError, StorageError, translated
from ...files import FILES
from ...images.nbd import NbdFile
from .bitmaps import action
from .monitor import Monitor

RESERVE = 64 << 20
CLUSTER = 128 << 10
_WAIT_S, _PAUSE_S = 30.0, 0.002
_EXPORT = re.compile(r"br[0-9a-f]{12}-x\d+")  # one of ours, of whichever relationship


class Disk(msgspec.Struct, frozen=True):
    """A node that a guest writes. `allocated` bytes of room does it take up."""

    node: str
    size: int
    allocated: int
    path: Path | None


class Fleece:
    """Made of a connection and the relationship's tag; `folder` is where scratch images go."""

    def __init__(self, qmp: Monitor, tag: str, folder: Path, nbd: Path | None) -> None:
        self._qmp, self._tag, self._folder = qmp, tag, folder / f"blockreplica-{tag}"
        self._nbd, self._own_server = nbd or qmp.path.with_name(qmp.path.name + ".nbd"), nbd is None
        self._disks: Sequence[Disk] = ()
        self._exports: dict[tuple[int, str | None], str] = {}
        self._served = False

    def prepare(self, disks: Sequence[Disk]) -> None:
        """Make the scratch images, all of their room included. The guest notices nothing of it."""
        self.clear()
        self._disks = disks
        self._make_folder()
        self._require_room()
        for index, disk in enumerate(disks):
            name, path = f"{self._tag}-{index}", str(self._folder / f"{index}.qcow2")
            create: dict[str, Any] = {"driver": "file", "filename": path, "size": 0}
            self._qmp.job("blockdev-create", f"{self._tag}-new{index}", options=create)
            self._qmp("blockdev-add", node_name=f"{name}-file", driver="file", filename=path)
            create = {
                "driver": "qcow2", "file": f"{name}-file", "size": disk.size, "extended-l2": True,
                "cluster-size": CLUSTER, "preallocation": "falloc", "backing-file": "set-when-opened",
                "backing-fmt": "raw",
            }  # fmt: skip
            self._qmp.job("blockdev-create", f"{self._tag}-new{index}", options=create)
            self._qmp("blockdev-add", node_name=name, driver="qcow2", file=f"{name}-file", backing=disk.node)

    def actions(self) -> list[dict[str, Any]]:
        """What of the cut's transaction begins to keep old content."""
        return [
            action(
                "blockdev-backup", job_id=f"{self._tag}-job{index}", device=disk.node, target=f"{self._tag}-{index}",
                sync="none", filter_node_name=f"{self._tag}-{index}-cbw",
            )
            for index, disk in enumerate(self._disks)
        ]  # fmt: skip

    def open(self, index: int, bitmap: str | None = None) -> NbdFile:
        """A disk as it was at the cut; with `bitmap` (a disabled one) its extents may be asked for."""
        self._serve()
        name = self._exports.get((index, bitmap))
        if name is None:
            name = f"{self._tag}-x{len(self._exports)}"
            self._qmp(
                "block-export-add", type="nbd", id=name, node_name=f"{self._tag}-{index}", name=name,
                bitmaps=[bitmap] if bitmap else None,
            )  # fmt: skip
            self._exports[index, bitmap] = name
        return NbdFile(self._nbd, name, contexts=(context(bitmap),) if bitmap else ())

    def check(self) -> None:
        """StorageError unless every job still copies: what was read since the cut is what was there at the cut."""
        running = {job["id"] for job in self._qmp("query-jobs") if job["status"] == "running" and "error" not in job}
        for index, disk in enumerate(self._disks):
            if f"{self._tag}-job{index}" not in running:
                raise StorageError(f"{self._qmp.path}: QEMU no longer keeps the old content of {disk.node}: its job "
                                   "failed or was cancelled; sync again")  # fmt: skip

    def release(self) -> None:
        """End the exports, so that nothing holds a bitmap."""
        for name in self._mine("query-block-exports", "id"):
            self._qmp("block-export-del", id=name, mode="hard")
        self._wait(lambda: not self._mine("query-block-exports", "id"), "to end an export")
        self._exports.clear()

    def clear(self) -> None:
        """Take everything of this tag out of QEMU, and its scratch images away."""
        self.release()
        for job in self._qmp("query-jobs"):
            if job["id"].startswith(self._tag):
                concluded = job["status"] == "concluded"
                self._qmp("job-dismiss" if concluded else "job-cancel", id=job["id"])
        self._wait(self._no_jobs, "to cancel a job")
        nodes = self._mine("query-named-block-nodes", "node-name", flat=True)
        for name in sorted(nodes, key=lambda name: name.endswith("-file")):  # what stands on a file goes before it
            self._qmp("blockdev-del", node_name=name)
        self._stop_server()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _make_folder(self) -> None:
        FILES.make_folder(self._folder)
        user, group = self._qmp.owner
        if os.geteuid() == 0 and user != 0:
            with translated(self._folder, "giving it to QEMU's user"):
                os.chown(self._folder, user, group)

    def _require_room(self) -> None:
        """Sparse images that share the file system may grow meanwhile: their room is theirs (invariant 13)."""
        with translated(self._folder, "measuring the free space"):
            space, device = os.statvfs(self._folder), os.stat(self._folder).st_dev
            needed = sum(disk.size + disk.size // 1024 for disk in self._disks) + RESERVE
            for disk in self._disks:
                if disk.path is not None and os.stat(disk.path).st_dev == device:
                    needed += max(0, disk.size - disk.allocated)
        free = space.f_bavail * space.f_frsize
        if free < needed:
            raise NoSpaceError(f"{self._folder}: has room for {free} bytes; the scratch images, and what the disks may "
                               f"still grow by, need {needed}; choose a folder with more by &scratch=DIR")  # fmt: skip

    def _serve(self) -> None:
        if self._served or not self._own_server:
            self._served = True
            return
        address = {"type": "unix", "data": {"path": str(self._nbd)}}
        try:
            FILES.unlink(self._nbd)
            self._qmp("nbd-server-start", addr=address)
        except StorageError as error:
            if "already running" not in str(error):
                raise
            if any(_EXPORT.fullmatch(each["id"]) for each in self._qmp("query-block-exports")):
                raise BusyError(f"{self._qmp.path}: another sync reads from this QEMU by an NBD server that it "
                                "began; sync again when that has ended") from None  # fmt: skip
            raise RefusedError(f"{self._qmp.path}: QEMU runs an NBD server of somebody else's already; name its unix "
                               "socket by &nbd=SOCKET") from None  # fmt: skip
        self._served = True

    def _stop_server(self) -> None:
        """Stop the server if it is ours: it listens where ours does, and exports nothing."""
        if not self._own_server or not FILES.exists(self._nbd):
            return
        if not self._qmp("query-block-exports"):
            try:
                self._qmp("nbd-server-stop")
            except StorageError as error:
                if "not running" not in str(error):
                    raise
        FILES.unlink(self._nbd)
        self._served = False

    def _mine(self, query: str, key: str, **arguments: Any) -> list[str]:
        found = (each.get(key, "") for each in self._qmp(query, **arguments))
        return [name for name in found if name.startswith(f"{self._tag}-") and not name.endswith("-cbw")]

    def _no_jobs(self) -> bool:
        mine = [job for job in self._qmp("query-jobs") if job["id"].startswith(self._tag)]
        for job in mine:
            if job["status"] == "concluded":
                self._qmp("job-dismiss", id=job["id"])
        return not mine

    def _wait(self, done: Callable[[], bool], what: str) -> None:
        until = time.monotonic() + _WAIT_S
        while not done():
            if time.monotonic() > until:
                raise StorageError(f"{self._qmp.path}: QEMU takes more than {_WAIT_S:.0f} s {what}")
            time.sleep(_PAUSE_S)


def context(bitmap: str) -> str:
    """The NBD metadata context of a bitmap."""
    return f"qemu:dirty-bitmap:{bitmap}"
