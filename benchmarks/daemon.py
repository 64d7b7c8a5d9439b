"""A running QEMU as the source: how fast what its guest wrote goes from the cut to the acknowledgement."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import blockreplica as br
import fio
import servers
from measure import Run, Series, settle
from report import Goal

MB = 10**6


def race(work: Path, size: int, dirty: int, rounds: int) -> tuple[dict[str, Series], list[Goal]]:
    """Syncs of a qemu-storage-daemon's disk of which `dirty` bytes were written over NBD, in pieces of 64 KiB."""
    folder = work / "daemon"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    os.environ["BLOCKREPLICA_STATE"] = str(folder / "state")
    image = servers.filled(folder / "vm.img", size)
    monitor, served = folder / "q.sock", folder / "n.sock"
    results = {name: Series(name) for name in ("cut to acknowledged", "sync as a whole")}
    with servers.process(
        "qemu-storage-daemon",
        "--blockdev", f"driver=file,node-name=f,filename={image}", "--blockdev", "driver=raw,node-name=d,file=f",
        "--chardev", f"socket,id=q,path={monitor},server=on,wait=off", "--monitor", "chardev=q",
        "--nbd-server", f"addr.type=unix,addr.path={served}",
        "--export", "nbd,id=g,node-name=d,name=guest,writable=on", socket=served,
    ):  # fmt: skip
        vm = br.protect(f"qmp:{monitor}?node=d&nbd={served}", folder / "store", name="bench")
        for number in range(rounds + 1):
            options = ["--rw=randwrite", "--bs=64k", "--iodepth=16", f"--size={size}", f"--io_size={dirty}"]
            fio.finish(fio.start([f"nbd+unix:///guest?socket={served}"], [*options, f"--randseed={number}"]))
            settle()
            result = vm.sync()
            if result.action != "delta" or result.bytes_dirty < dirty // 2:
                raise SystemExit(f"the sync does not count: {result}")
            if number:
                results["cut to acknowledged"].runs.append(Run(time.time() - vm.points()[-1].time, 0.0, 0))
                results["sync as a whole"].runs.append(Run(result.seconds, 0.0, 0))
    shutil.rmtree(folder)
    speed = result.bytes_dirty / MB / results["cut to acknowledged"].seconds
    return results, [Goal(f"QEMU, {result.bytes_dirty >> 20} MiB dirty", 400, speed, " MB/s", more_is_better=True)]
