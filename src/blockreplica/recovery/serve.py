"""Serving a recovery point over NBD at once, whatever the size of the disk: nothing is copied, nothing rolled back.

nbdkit serves, through the plugin beside this package (`native/nbdpoint/plugin.c`): every block is proved by the
point's checksums before it leaves. The point's lease goes to nbdkit and lasts as long as its process, so that pruning
leaves the point alone even when whoever started it is gone. Writes go to nbdkit's cow filter, which forgets them at
its end; the replica is only read, and replicates on.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from contextlib import ExitStack, closing
from pathlib import Path
from typing import IO

from ..errors import UsageError
from ..files import FILES
from ..manifest import PointRecord
from ..nbdkit import PathLike, Place, Server, outliving, place_of, require_nbdkit, start
from ..stores import Replica

PLUGIN = Path(__file__).resolve().parent.parent / "_nbdpoint.so"
MOST_TTL_S = 10 * 366 * 86400


class ServedPoint(Server):
    """A disk of a point that is being served: `uri`, `pid`, `point`, `disk`. Ends with `close`, or its `with` block."""

    def __init__(
        self, process: subprocess.Popen[bytes], place: Place, log: IO[bytes], path: Path, point: PointRecord, disk: int
    ) -> None:
        super().__init__(process, place, path, log)
        self.point, self.disk = point, disk

    def __enter__(self) -> ServedPoint:
        return self


def serve(
    replica: Replica, point_id: str | None, *, disk: int = 0, socket: PathLike | None = None, tcp: str | None = None,
    tls: PathLike | None = None, writable: bool = False, ttl_s: float | None = None, detach: bool = False,
    pid_file: PathLike | None = None,
) -> ServedPoint:  # fmt: skip
    """Serve a disk of a point (the newest by default) over NBD; returns once clients can connect.

    `socket`: the Unix socket, in a folder of its own that nobody else can enter unless given; or `tcp` and `tls` as of
    `export`. `writable`: clients may write, and what they wrote is gone at the end. It ends after `ttl_s`, and with
    this process unless `detach`. NotFoundError: no such point or disk, or no nbdkit; StorageError: it can't be read.
    """
    if ttl_s is not None and not 1 <= ttl_s <= MOST_TTL_S:
        raise UsageError(f"a time to live of {ttl_s:g} s: wanted 1 s to 10 years")
    program = require_nbdkit(PLUGIN)
    with ExitStack() as stack:
        point = replica.find(point_id)
        lease = stack.enter_context(closing(replica.lease(point)))
        found = replica.place(point, disk)
        own = tempfile.mkdtemp(prefix="blockreplica-") if socket is None and tcp is None else None
        path = Path(os.path.abspath(socket)) if socket is not None else Path(own or "") / "point.sock"
        place = place_of(path, tcp, tls, given=socket is not None)
        place.clear()
        seed = stack.enter_context(_said(str(found.seed)))
        pid_path = Path(os.path.abspath(pid_file)) if pid_file is not None else None
        plugin = [
            f"folder={found.folder}", f"epoch={found.epoch}", f"newest={found.newest}", f"size={found.size}",
            f"block-size={found.block_size}", f"table-key={found.table_key}", f"era={found.era}",
            f"seed=-{seed.fileno()}",
            *outliving(detach=detach), *([f"ttl={max(1, round(ttl_s))}"] if ttl_s is not None else []),
            *(f"remove={leftover}" for leftover in (place.socket, own, pid_path) if leftover is not None),
        ]  # fmt: skip
        filters = ["--filter=cow"] if writable else []
        begun = start(
            [program, "-f", *place.arguments(), *filters, str(PLUGIN), *plugin], place,
            lambda process, log: ServedPoint(process, place, log, found.folder, point, disk),
            detach=detach, inherited=(lease.fileno(), seed.fileno()),
        )  # fmt: skip
    if pid_path is not None:
        FILES.write_durably(pid_path, b"%d\n" % begun.pid)
    return begun


def _said(text: str) -> IO[bytes]:
    """A descriptor that reads as `text`: what no list of processes shows."""
    reading, writing = os.pipe()
    with os.fdopen(writing, "wb") as pipe:
        pipe.write(text.encode() + b"\n")
    return os.fdopen(reading, "rb")
