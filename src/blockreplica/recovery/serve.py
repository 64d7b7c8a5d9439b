"""Serving a recovery point over NBD at once, whatever the size of the disk: nothing is copied, nothing rolled back.

nbdkit serves, through the plugin beside this package (`native/nbdpoint/plugin.c`): every block is proved by the
point's checksums before it leaves. The point's lease goes to nbdkit and lasts as long as its process, so that pruning
leaves the point alone even when whoever started it is gone. Writes go to nbdkit's cow filter, which forgets them at
its end, or to the image that the point is becoming (`pivot.py`); the replica is only read, and replicates on.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import IO

import msgspec

from ..errors import NotFoundError, RefusedError, UsageError
from ..files import FILES
from ..manifest import PointRecord
from ..nbdkit import PathLike, Place, Server, noted, outliving, place_of, require_nbdkit, start
from ..stores import Replica
from ..stores.layout import store_around
from .pivot import Pivot, arguments, begun, explain, read_pivot, require_same
from .serving import PLUGIN_NAME, label

PLUGIN = Path(__file__).resolve().parent.parent / PLUGIN_NAME
MOST_TTL_S = 10 * 366 * 86400


class ServedPoint(Server):
    """A disk of a point that is being served: `uri`, `pid`, `point` (its id in `point_id`), `disk`. Ends with `close`,
    or its `with` block."""

    def __init__(
        self, process: subprocess.Popen[bytes], place: Place, log: IO[bytes], path: Path, point_id: str, disk: int,
        point: PointRecord | None, image: Path | None,
    ) -> None:  # fmt: skip
        super().__init__(process, place, path, log)
        self.point_id, self.disk, self._point, self._image = point_id, disk, point, image

    @property
    def point(self) -> PointRecord:
        """The point; NotFoundError for an image that is complete: it needs none."""
        if self._point is None:
            raise NotFoundError(f"{self.path}: is served without its point {self.point_id}")
        return self._point

    def pivot(self) -> Pivot | None:
        """How far the pivot is, None where there is none."""
        return read_pivot(self._image) if self._image is not None else None

    def __enter__(self) -> ServedPoint:
        return self


class _Plan(msgspec.Struct, frozen=True):
    """What is to be served, and by what the plugin finds it."""

    path: Path
    point_id: str
    disk: int
    arguments: list[str]
    point: PointRecord | None = None
    image: Path | None = None
    inherited: tuple[int, ...] = ()
    writable: bool = False


def serve(
    replica: Replica, point_id: str | None, *, disk: int | None = None, socket: PathLike | None = None,
    tcp: str | None = None, tls: PathLike | None = None, writable: bool = False, pivot: PathLike | None = None,
    rate: int = 0, ttl_s: float | None = None, detach: bool = False, pid_file: PathLike | None = None,
) -> ServedPoint:  # fmt: skip
    """Serve a disk of a point (the newest by default) over NBD; returns once clients can connect.

    `socket`: the Unix socket, in a folder of its own that nobody else can enter unless given; or `tcp` and `tls` as of
    `export`. `writable`: clients may write, and what they wrote is gone at the end. `pivot`: a new file that gets what
    clients write, and the rest of the disk from the point, `rate` bytes a second (0: no limit), until the replica is
    needed no more; interrupted, the same call goes on. It ends after `ttl_s`, and with this process unless `detach`.
    NotFoundError: no such point or disk, or no nbdkit; DamageError, StorageError: the point can't be read.
    """
    image = Path(os.path.abspath(pivot)) if pivot is not None else None
    if image is not None and writable:
        raise UsageError("writable: what is written is gone at the end; with a pivot it stays: choose one of them")
    if image is not None and (store := store_around(image, FILES)) is not None:
        raise RefusedError(f"{image}: lies inside the replica store {store}; choose a place outside of it")
    earlier = begun(image) if image is not None else None
    if earlier is not None:
        require_same(earlier, replica.record.relationship, point_id, disk)
        point_id, disk = earlier.point, earlier.disk
    with ExitStack() as stack:
        point = replica.find(point_id)
        lease = stack.enter_context(closing(replica.lease(point)))
        found = replica.place(point, disk or 0)
        seed = stack.enter_context(_said(str(found.seed)))
        plugin = [
            f"folder={found.folder}", f"epoch={found.epoch}", f"newest={found.newest}", f"size={found.size}",
            f"block-size={found.block_size}", f"table-key={found.table_key}", f"era={found.era}",
            f"seed=-{seed.fileno()}", label(replica.record.relationship, disk or 0, point.id),
        ]  # fmt: skip
        if image is not None:
            plugin += arguments(image, replica.record.relationship, point.id, disk or 0, rate)
            plugin.append(f"pivot-lease={lease.fileno()}")
        plan = _Plan(found.folder, point.id, disk or 0, plugin, point, image, (lease.fileno(), seed.fileno()), writable)
        return _begin(plan, socket, tcp, tls, ttl_s, detach=detach, pid_file=pid_file)


def serve_complete(
    image: PathLike, relationship: str, *, point_id: str | None = None, disk: int | None = None,
    socket: PathLike | None = None, tcp: str | None = None, tls: PathLike | None = None, ttl_s: float | None = None,
    detach: bool = False, pid_file: PathLike | None = None,
) -> ServedPoint:  # fmt: skip
    """Serve an image whose pivot is complete; the replica may be gone. As `serve`."""
    path = Path(os.path.abspath(image))
    found = read_pivot(path)
    require_same(found, relationship, point_id, disk)
    if not found.complete:
        raise RefusedError(f"{path}: is not complete yet, and needs its point {found.point}")
    given = [f"size={found.size}", *arguments(path, relationship, found.point, found.disk, 0),
             label(relationship, found.disk, found.point)]  # fmt: skip
    plan = _Plan(path, found.point, found.disk, given, image=path)
    return _begin(plan, socket, tcp, tls, ttl_s, detach=detach, pid_file=pid_file)


def _begin(
    plan: _Plan, socket: PathLike | None, tcp: str | None, tls: PathLike | None, ttl_s: float | None, *,
    detach: bool, pid_file: PathLike | None,
) -> ServedPoint:  # fmt: skip
    if ttl_s is not None and not 1 <= ttl_s <= MOST_TTL_S:
        raise UsageError(f"a time to live of {ttl_s:g} s: wanted 1 s to 10 years")
    if socket is not None or tcp is not None:
        return _listen(plan, socket, None, tcp, tls, ttl_s, detach=detach, pid_file=pid_file)
    own = tempfile.mkdtemp(prefix="blockreplica-")
    try:
        return _listen(plan, None, own, None, tls, ttl_s, detach=detach, pid_file=pid_file)
    except BaseException:
        with contextlib.suppress(OSError):  # the server may have removed it, at its end
            os.rmdir(own)
        raise


def _listen(
    plan: _Plan, socket: PathLike | None, own: str | None, tcp: str | None, tls: PathLike | None, ttl_s: float | None,
    *, detach: bool, pid_file: PathLike | None,
) -> ServedPoint:  # fmt: skip
    """`own`: the new folder for a socket that nobody named; the server removes it at its end."""
    program = require_nbdkit(PLUGIN)
    path = Path(os.path.abspath(socket)) if socket is not None else Path(own or "") / "point.sock"
    place = place_of(path, tcp, tls, given=socket is not None)
    place.clear()
    pid_path = Path(os.path.abspath(pid_file)) if pid_file is not None else None
    plugin = [
        *plan.arguments,
        *outliving(detach=detach), *([f"ttl={max(1, round(ttl_s))}"] if ttl_s is not None else []),
        *(f"remove={leftover}" for leftover in (place.socket, own, pid_path) if leftover is not None),
    ]  # fmt: skip
    filters = ["--filter=cow"] if plan.writable else []
    folder = plan.path if plan.point is not None else None
    server = start(
        [program, "-f", *place.arguments(), *filters, str(PLUGIN), *plugin], place,
        lambda process, log: ServedPoint(
            process, place, log, plan.image or plan.path, plan.point_id, plan.disk, plan.point, plan.image
        ),
        detach=detach, explain=lambda told: explain(told, folder, plan.disk), inherited=plan.inherited,
    )  # fmt: skip
    return noted(server, partial(FILES.write_durably, pid_path) if pid_path is not None else None)


def _said(text: str) -> IO[bytes]:
    """A descriptor that reads as `text`: what no list of processes shows."""
    reading, writing = os.pipe()
    with os.fdopen(writing, "wb") as pipe:
        pipe.write(text.encode() + b"\n")
    return os.fdopen(reading, "rb")
