"""A qemu-storage-daemon with disks that tests write over NBD, as a guest would; ended by its pid, whatever happens."""

from __future__ import annotations

import contextlib
import ctypes
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from blockreplica.tracking.qemu.monitor import Monitor

MIB = 1 << 20
TOOLS = ("qemu-storage-daemon", "qemu-img", "qemu-io")
MISSING = [tool for tool in TOOLS if shutil.which(tool) is None]
needs_qemu = pytest.mark.skipif(bool(MISSING), reason=f"needs {', '.join(MISSING)} (qemu-system-common, qemu-utils)")


def die_with_parent() -> None:
    """For `preexec_fn`: a test run that is killed leaves no daemon."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def make_disk(path: Path, fmt: str, size: int) -> Path:
    """An empty image."""
    subprocess.run(["qemu-img", "create", "-q", "-f", fmt, path, str(size)], check=True)
    return path


@dataclass(slots=True)
class Daemon:
    """Disks called d0, d1…; the guest's side is an NBD server of the daemon's own."""

    folder: Path
    images: list[tuple[Path, str]]
    process: subprocess.Popen[bytes] | None = None
    options: list[str] = field(default_factory=list)

    @property
    def qmp(self) -> Path:
        """The monitor for blockreplica."""
        return self.folder / "q.sock"

    @property
    def nbd(self) -> Path:
        """Where the guest's exports are."""
        return self.folder / "n.sock"

    def address(self, more: str = "") -> str:
        """What `protect` takes."""
        nodes = ",".join(f"d{index}" for index in range(len(self.images)))
        return f"qmp:{self.qmp}?node={nodes}&nbd={self.nbd}{more}"

    def start(self) -> Daemon:
        """Start, and wait for it."""
        command = ["qemu-storage-daemon", *self.options]
        command += ["--chardev", f"socket,id=q,path={self.qmp},server=on,wait=off", "--monitor", "chardev=q"]
        command += ["--chardev", f"socket,id=w,path={self.folder}/w.sock,server=on,wait=off", "--monitor", "chardev=w"]
        command += ["--nbd-server", f"addr.type=unix,addr.path={self.nbd}"]
        for index, (path, fmt) in enumerate(self.images):
            node = f"d{index}"
            command += ["--blockdev", f"driver=file,node-name={node}-file,filename={path},discard=unmap"]
            command += ["--blockdev", f"driver={fmt},node-name={node},file={node}-file,discard=unmap"]
            command += ["--export", f"nbd,id=guest{index},node-name={node},name=guest{index},writable=on"]
        for name in (self.qmp, self.nbd, self.folder / "w.sock"):
            name.unlink(missing_ok=True)
        self.process = subprocess.Popen(command, preexec_fn=die_with_parent, cwd=self.folder)
        until = time.monotonic() + 20
        while not self.nbd.exists():
            assert self.process.poll() is None, "the daemon ended"
            assert time.monotonic() < until, "the daemon does not come up"
            time.sleep(0.01)
        return self

    def stop(self, sig: signal.Signals = signal.SIGTERM) -> None:
        """End it; SIGTERM is a clean shutdown."""
        if self.process is not None:
            self.process.send_signal(sig)
            self.process.wait(20)
            self.process = None

    def uri(self, index: int = 0) -> str:
        """A disk as the guest sees it."""
        return f"nbd+unix:///guest{index}?socket={self.nbd}"

    def io(self, *commands: str, index: int = 0) -> None:
        """Let the guest do what qemu-io understands; fails when the guest's write does."""
        arguments = [word for command in commands for word in ("-c", command)]
        done = subprocess.run(["qemu-io", "-f", "raw", *arguments, self.uri(index)], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "failed" not in done.stdout, done.stdout

    def content(self, index: int = 0) -> bytes:
        """The disk as the guest sees it."""
        target = self.folder / "content.raw"
        subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "raw", self.uri(index), target], check=True)
        return target.read_bytes()

    @contextlib.contextmanager
    def monitor(self) -> Iterator[Any]:
        """A second monitor, for the test's own commands."""
        monitor = Monitor(self.folder / "w.sock")
        try:
            yield monitor
        finally:
            monitor.close()
