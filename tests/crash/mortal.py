"""Processes that kill themselves at their n-th change of a file.

Run as a program this is a server: it reads jobs from stdin, a JSON object a line, does each in a child of its own and
answers with a JSON object a line. The child counts every change that goes through the seam (and through the tracker's
table of operations); at change `die_at` it sends itself SIGKILL: before the change, or with a write half done. All
sizes that make work come in batches are set small, so that every order of steps occurs on images of a few megabytes.

`Mortals` is the other side, for tests.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PAGE = 4096


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a job. `changes` counts those that it made, when it lived to tell."""

    killed: bool
    changes: int = 0
    result: dict[str, Any] = field(default_factory=dict)
    error: str = ""
    message: str = ""


class Mortals:
    """The server's handle. `state` is the folder of the catalog."""

    def __init__(self, state: Path) -> None:
        environment = os.environ | {"BLOCKREPLICA_STATE": str(state)}
        folders = [str(Path(__file__).parents[1]), *sys.path]
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, folders))
        self._server = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def run(self, job: str, *, die_at: int | None = None, torn: bool = False, **arguments: Any) -> Outcome:
        """Do one job; see the functions named `do_...`."""
        assert self._server.stdin
        assert self._server.stdout
        order = {"job": job, "die_at": die_at, "torn": torn, "arguments": arguments}
        self._server.stdin.write(json.dumps(order, default=str) + "\n")
        self._server.stdin.flush()
        return Outcome(**json.loads(self._server.stdout.readline()))

    def close(self) -> None:
        """End the server."""
        assert self._server.stdin
        assert self._server.stdout
        self._server.stdin.close()
        self._server.wait()
        self._server.stdout.close()

    def __enter__(self) -> Mortals:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Reaper:
    """Counts changes and kills its process at one of them."""

    def __init__(self, die_at: int | None, torn: bool) -> None:
        self.changes, self._die_at, self._torn = 0, die_at, torn

    def due(self) -> bool:
        """Count a change; whether it is the last."""
        self.changes += 1
        return self.changes == self._die_at

    def strike(self) -> None:
        """The end."""
        os.kill(os.getpid(), signal.SIGKILL)

    def install(self) -> None:
        """Put itself into the seam; fsync, which a kill can't tell from its absence, is counted and not done."""
        from blockreplica.files import File, Files

        self._patch_file(File)
        for name in ("rename", "unlink", "make_folder", "remove_folder"):
            self._before(Files, name)
        self._before(Files, "sync_folder", skip=True)
        self._before(File, "sync", skip=True)
        for name in ("zero", "truncate"):
            self._before(File, name)

    def _before(self, owner: Any, name: str, *, skip: bool = False) -> None:
        original = getattr(owner, name)

        def counted(this: Any, *arguments: Any, **options: Any) -> Any:
            if self.due():
                self.strike()
            return None if skip else original(this, *arguments, **options)

        setattr(owner, name, counted)

    def _patch_file(self, owner: Any) -> None:
        write, copy = owner.pwrite, owner.copy_from

        def pwrite(this: Any, data: Any, offset: int) -> None:
            view = memoryview(data).cast("B")
            if self.due():
                if self._torn:  # at a page of the cache: a smaller piece is never torn by a kill
                    half = (offset + len(view) // 2) // PAGE * PAGE - offset
                    write(this, view[: max(0, half)], offset)
                self.strike()
            write(this, view, offset)

        def write_extents(this: Any, extents: Any, buffer: Any) -> None:
            if not memoryview(extents).nbytes:
                return
            rows, view = memoryview(bytes(memoryview(extents).cast("B"))).cast("Q"), memoryview(buffer).cast("B")
            for at in range(0, len(rows), 3):
                offset, length, start = rows[at : at + 3]
                this.pwrite(view[start : start + length], offset)

        def copy_from(this: Any, source: Any, offset: int, length: int, block_size: int, table: Any, **how: Any) -> int:
            if self.due():
                if self._torn:
                    half = length // 2 // block_size * block_size
                    copy(this, source, offset, half, block_size, table, **how)
                self.strike()
            return int(copy(this, source, offset, length, block_size, table, **how))

        owner.pwrite, owner.write_extents, owner.copy_from = pwrite, write_extents, copy_from


def small_batches() -> None:
    """Make windows, stages and batches small, and let every window be a checkpoint."""
    from blockreplica.replication import bulk
    from blockreplica.stores import blend, disk, stage

    bulk.WINDOW_PAGES, bulk.CHECKPOINT_SECONDS = 0, 0.0
    blend.BATCH_BYTES, stage.STAGE_BYTES, disk.ZERO_WINDOW = 64 << 10, 128 << 10, 256 << 10


def scribble(image: Any, rng: random.Random, rounds: int) -> None:
    """Writes, zeros and discards at places and of lengths that `rng` says."""
    for _ in range(rounds):
        length = min(rng.choice([512, 4096, 5000, 70_000, 300_000]), image.size)
        offset = rng.randrange(image.size - length + 1)
        what = rng.random()
        if what < 0.7:
            image.pwrite(rng.randbytes(length), offset)
        elif what < 0.85:
            image.zero(offset, length)
        else:
            image.discard(offset, length)
        if rng.random() < 0.1:
            image.flush()


def do_write(images: list[str], seed: int, rounds: int, resize: bool = False, ops: bool = False) -> None:
    """Change images through trackers, cutting now and then; with `ops` the tracker writes through Python."""
    import blockreplica as br
    from blockreplica.files import Files

    class Seam(Files):
        """Not the real file system's class, so the tracker goes through these objects."""

    rng = random.Random(seed)
    for path in images:
        with br.track(path, **({"files": Seam()} if ops else {})) as image:
            scribble(image, rng, rounds)
            image.cut()
            scribble(image, rng, rounds)
            if resize:
                image.resize(rng.randrange(1 << 20, 4 << 20))
                scribble(image, rng, 3)


def do_protect(images: list[str], store: str, name: str, keep: int) -> dict[str, Any]:
    """Begin, or go on with, a relationship."""
    import blockreplica as br

    done = br.protect(images, store, name=name, block_size=PAGE, keep=keep).last
    assert done is not None
    return {"point": done.point, "action": done.action, "kind": done.kind, "reason": done.reason}


def do_sync(name: str, resync: bool = False, deep: bool = False, block_size: int | None = None) -> dict[str, Any]:
    """A sync, or a resync."""
    import blockreplica as br

    vm = br.relationship(name)
    done = vm.resync(deep=deep, block_size=block_size) if resync else vm.sync()
    return {"point": done.point, "action": done.action, "kind": done.kind, "reason": done.reason}


def do_recover(name: str, point: str, to: str, disk: int) -> dict[str, Any]:
    """Recover a point to a file."""
    import blockreplica as br

    return {"point": br.relationship(name).replica.recover(point, to, disk=disk)}


def do_verify(name: str) -> dict[str, Any]:
    """What verify finds."""
    import blockreplica as br

    return {"damage": [damage.what for damage in br.relationship(name).verify().damage]}


def child(order: dict[str, Any], out: int) -> None:
    """One job, then the end of the process."""
    from blockreplica.errors import BlockReplicaError

    reaper = Reaper(order["die_at"], order["torn"])
    reaper.install()
    small_batches()
    told: dict[str, Any] = {"killed": False}
    try:
        told["result"] = globals()["do_" + order["job"]](**order["arguments"]) or {}
    except BlockReplicaError as error:
        told |= {"error": type(error).__name__, "message": str(error)}
    except Exception as error:
        import traceback

        told |= {"error": "not typed: " + type(error).__name__, "message": traceback.format_exc()}
    told["changes"] = reaper.changes
    os.write(out, json.dumps(told).encode())
    os._exit(0)


def serve() -> None:
    """Answer jobs until stdin ends."""
    import blockreplica.service.registry  # noqa: F401  (so that no child has to load it)

    for line in sys.stdin:
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(reading)
            child(json.loads(line), writing)
        os.close(writing)
        with os.fdopen(reading, "rb") as pipe:
            told = pipe.read()
        os.waitpid(pid, 0)
        print(told.decode() or json.dumps({"killed": True}), flush=True)


if __name__ == "__main__":
    serve()
