"""Recovery points: how soon one is there however far back, how fast it is read, how fast it becomes a file."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import images
import races
import servers
from blockreplica.manifest import PointDisk, PointRecord, ReplicaDisk, ReplicaRecord, point_id
from blockreplica.recovery.serve import serve
from blockreplica.stores import DirectoryStore, Replica
from blockreplica.stores.blend import EXTENT
from measure import PROGRAM, Run, Series, settle
from report import Goal, faster

KIB, MIB, GIB, TIB = 1 << 10, 1 << 20, 1 << 30, 1 << 40
PIECE = 4 * KIB
Results = tuple[dict[str, Series], list[Goal]]


@dataclass(frozen=True, slots=True)
class Scale:
    """How large, how many undo logs, how many pieces of 4 KiB in each."""

    far_disk: int = TIB
    far_logs: int = 500
    far_pieces: int = 2000
    size: int = GIB
    logs: int = 24
    dirty: float = 0.01
    recovered: int = 4 * GIB
    rounds: int = 7


FULL = Scale()
QUICK = Scale(far_logs=60, far_pieces=500, size=64 * MIB, recovered=64 * MIB, rounds=1)


def _replica(folder: Path) -> Replica:
    shutil.rmtree(folder, ignore_errors=True)
    record = ReplicaRecord(
        relationship="00000000-0000-0000-0000-00000000000b", name="vm", block_size=64 * KIB, seed=11, created=0.0,
        disks=[ReplicaDisk(index=0, name="vm.img")],
    )  # fmt: skip
    return DirectoryStore.create(folder).create_replica(record)


def _move(replica: Replica, size: int, offsets: list[int], length: int, noise: np.random.Generator) -> None:
    """One movement and its point: other content of `length` bytes at each of the ascending `offsets`."""
    with replica.locked():
        session = replica.session()
        session.start("delta", heal=False)
        session.disks[0].resize(size)
        step = max(1, 4 * MIB // length)
        for at in range(0, len(offsets), step):
            some = offsets[at : at + step]
            rows = np.array([(offset, length, index * length) for index, offset in enumerate(some)], EXTENT)
            session.disks[0].write(rows, memoryview(noise.bytes(len(some) * length)))
        session.commit(
            PointRecord(
                id=point_id(1, session.epoch), generation=1, epoch=session.epoch, time=float(session.epoch),
                kind="crash-consistent", action="delta", reason="benchmark",
                disks=[PointDisk(index=0, name="vm.img", size=size)],
            )
        )  # fmt: skip
        session.close()


def _history(folder: Path, size: int, logs: int, pieces: int, *, filled: bool) -> Replica:
    """A replica with that many undo logs behind its first point."""
    noise, replica = np.random.default_rng(3), _replica(folder)
    _move(replica, size, list(range(0, size, MIB)) if filled else [0], MIB, noise)
    for _ in range(logs):
        spots = np.unique(noise.integers(0, size // PIECE, pieces)) * PIECE
        _move(replica, size, [0, *spots[spots > 0].tolist()], PIECE, noise)
    return replica


def open_point(work: Path, scale: Scale) -> Results:
    """The oldest point of a large disk: from the call to its first block."""
    replica = _history(work / "far", scale.far_disk, scale.far_logs, scale.far_pieces, filled=False)
    series = Series(f"first block behind {scale.far_logs} logs")
    for _ in range(scale.rounds):
        settle()
        began = time.perf_counter()
        with serve(replica, "1.1", socket=work / "far.sock") as served:
            command = ["qemu-io", "-r", "-f", "raw", "-c", "read 0 4k", served.uri]
            subprocess.run(command, check=True, capture_output=True)
            seconds = time.perf_counter() - began
            peak = _peak(served.pid)
        series.runs.append(Run(seconds, 0.0, peak))
    shutil.rmtree(work / "far")
    what = f"first block of a point behind {scale.far_logs} logs of {scale.far_disk // GIB} GiB"
    return {series.name: series}, [Goal(what, 1.0, series.seconds, " s")]


def _peak(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) * KIB for line in status.splitlines() if line.startswith("VmHWM"))


def serve_point(work: Path, scale: Scale) -> Results:
    """A whole point read in order, against the flat image behind nbdkit's file plugin."""
    replica = _history(work / "near", scale.size, scale.logs, int(scale.size * scale.dirty / PIECE), filled=True)
    flat, socket = work / "flat.img", work / "flat.sock"
    command = ["cp", "--sparse=never", str(replica.layout.disk(0).image), str(flat)]
    subprocess.run(command, check=True)
    images.warm_cache([flat, *sorted(replica.layout.folder.rglob("*.*"))])
    results = {name: Series(name) for name in ("nbdkit file, flat image", "served point")}
    file = servers.process("nbdkit", "-f", "-r", "-U", socket, "file", flat, socket=socket)
    with file, serve(replica, "1.1", socket=work / "near.sock") as served:
        uris = dict(zip(results, (servers.address(socket), served.uri), strict=True))
        for number in range(scale.rounds + 1):
            for name in list(uris) if number % 2 else reversed(list(uris)):
                began = time.perf_counter()
                subprocess.run(["nbdcopy", uris[name], "null:"], check=True)
                if number:
                    results[name].runs.append(Run(time.perf_counter() - began, 0.0, 0))
    shutil.rmtree(work / "near")
    flat.unlink()
    plain, ours = results.values()
    what = f"a point behind {scale.logs} logs read in order, against the flat image"
    return results, [faster(what, 0.7, plain, ours)]


def recover(work: Path, scale: Scale) -> Results:
    """The newest point as a file, checked, durable and not, against cp, which checks nothing, durable and not."""
    image = images.make(work / "vm.img", scale.recovered, holes=0.4, changed=0.01, seed=1)
    state = {"BLOCKREPLICA_STATE": str(work / "state")}
    store, copy = work / "store", work / "copy.img"
    races.run([*PROGRAM, "protect", image.path, "--to", store, "--name", "vm"], state)
    newest = store / "vm/disk0/disk.img"

    def remove() -> None:
        copy.unlink(missing_ok=True)

    results = races.race(
        [
            races.Contestant("cp --sparse=always", ["cp", "--sparse=always", newest, copy], remove, copy),
            races.Contestant(
                "cp --sparse=always, then sync",
                ["sh", "-c", 'cp --sparse=always "$1" "$2" && sync "$2"', "sh", newest, copy], remove, copy,
            ),
            races.Contestant("recover", [*PROGRAM, "recover", "vm", "--to", copy], remove, copy, state),
            races.Contestant(
                "recover --no-fsync", [*PROGRAM, "recover", "vm", "--to", copy, "--no-fsync"], remove, copy, state,
            ),
        ],
        scale.rounds, image.path,
    )  # fmt: skip
    for path in (store, work / "state"):
        shutil.rmtree(path)
    copy.unlink()
    cp, durable, ours, loose = results.values()
    what = "recover of the newest point, against cp --sparse=always"
    return results, [
        faster(f"{what}, as little durable", 1, cp, loose),
        faster(f"{what}, then sync", 1, durable, ours),
        faster(f"{what}, which is not durable", 1, cp, ours),
    ]


SECTIONS: dict[str, tuple[str, Callable[[Path, Scale], Results]]] = {
    "open-point": ("A point far back, until its first block is read over NBD", open_point),
    "serve": ("A served point, read in order", serve_point),
    "recover": ("The newest point as a file", recover),
}
