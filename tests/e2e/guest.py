"""A virtual machine for tests: a Debian kernel, a shell of busybox, disks by file or by NBD, and a console to read.

There is no KVM: QEMU translates, and the machine is up within some seconds. Its whole system is an initramfs made here,
with a script of the test's as the only program. The console is a file: whatever the script has said (`say N` returns
when the serial port has it) stands in it before the script goes on, so that a test can tell what came before a cut and
what after. `say` writes to the kernel's log because a write to a terminal returns before its bytes have left.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import lzma
import re
import signal
import stat
import struct
import subprocess
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

MODULES = ("virtio_pci", "virtio_blk", "ext4")
PACKAGE = "linux-image-cloud-amd64"
_WANTED = ("*/vmlinuz-*", "*/drivers/virtio/*", "*/virtio_blk.ko*", "*/fs/ext4/*", "*/fs/jbd2/*", "*/fs/mbcache.ko*",
           "*/lib/crc16.ko*", "*/libcrc32c.ko*", "*/crypto/crc32c*")  # fmt: skip
_COMMAND_LINE = (
    "console=ttyS0 quiet panic=-1 printk.devkmsg=on printk.time=0 mitigations=off nokaslr tsc=reliable "
    "random.trust_cpu=on"
)
_BOOT_S = 120.0
_INIT = """#!/bin/sh
/bin/busybox --install -s /bin
mount -t devtmpfs dev /dev
mount -t proc proc /proc
for module in /modules/*; do insmod $module; done
say() { echo "<1>$*" > /dev/kmsg; }
"""
_END = "\npoweroff -f\n"


class Unavailable(Exception):
    """What a guest needs cannot be had here; the text says why."""


@dataclass(frozen=True, slots=True)
class Kit:
    """What every guest boots: a kernel, and the modules that its disks need, in the order of loading."""

    kernel: Path
    modules: tuple[bytes, ...]

    def initramfs(self, script: str) -> bytes:
        """Everything that runs in a guest."""
        entries: list[tuple[str, int, bytes]] = [
            (folder, stat.S_IFDIR | 0o755, b"") for folder in ("bin", "dev", "proc", "mnt", "modules")
        ]
        entries += [("bin/busybox", stat.S_IFREG | 0o755, _busybox()), ("bin/sh", stat.S_IFLNK | 0o777, b"busybox")]
        entries += [(f"modules/{at:02}", stat.S_IFREG | 0o644, module) for at, module in enumerate(self.modules)]
        entries.append(("init", stat.S_IFREG | 0o755, (_INIT + script + _END).encode()))
        return _cpio(entries)


def get_kit(folder: Path) -> Kit:
    """The kernel of Debian's package, got into `folder` unless it is there. Unavailable where it cannot be."""
    _busybox()
    if not any(folder.rglob("vmlinuz-*")):
        _unpack(_download(folder), folder)
    kernel = max(folder.rglob("vmlinuz-*"))
    return Kit(kernel, tuple(_modules(folder)))


def _busybox() -> bytes:
    path = Path("/bin/busybox")
    if not path.exists() or _interpreted(program := path.read_bytes()):
        raise Unavailable("a busybox that is linked statically is not installed (Debian: busybox-static)")
    return program


def _interpreted(program: bytes) -> bool:
    """Whether a 64-bit ELF file needs a dynamic loader: it has a PT_INTERP header."""
    at, size, count = struct.unpack_from("<Q14xHH", program, 32)
    return any(struct.unpack_from("<I", program, at + number * size)[0] == 3 for number in range(count))


def _run(*command: str | Path, folder: Path | None = None) -> str:
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=180, check=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        told = getattr(error, "stderr", "") or ""
        raise Unavailable(f"no kernel for a guest: {error} {told.strip()[-300:]}") from None
    return done.stdout


def _download(folder: Path) -> Path:
    """Get the package; package lists that are missing or outdated are fetched once."""
    with contextlib.suppress(Unavailable):
        return _download_now(folder)
    _run("apt-get", "-qq", "-o", "DPkg::Lock::Timeout=100", "update")
    return _download_now(folder)


def _download_now(folder: Path) -> Path:
    found = re.search(r"^Depends:.*?(linux-image-\S+-cloud-amd64)", _run("apt-cache", "show", PACKAGE), re.MULTILINE)
    if found is None:
        raise Unavailable(f"no kernel for a guest: {PACKAGE} names none")
    _run("apt-get", "-qq", "-o", "APT::Sandbox::User=root", "download", found[1], folder=folder)
    return max(folder.glob("linux-image-*.deb"))


def _unpack(package: Path, folder: Path) -> None:
    """Only what is needed of it: the whole is a hundred megabytes."""
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", package], stdout=subprocess.PIPE) as unpacked:
        tar = ["tar", "-x", "-C", folder, "--wildcards", *_WANTED]
        # Patterns that match nothing are an error to tar: what is not a module is in the kernel.
        subprocess.run(tar, stdin=unpacked.stdout, stderr=subprocess.DEVNULL, check=False)
    package.unlink()
    if not any(folder.rglob("vmlinuz-*")):
        raise Unavailable(f"no kernel for a guest: {package.name} holds none")


def _modules(folder: Path) -> list[bytes]:
    """The modules' content, each behind those that it depends on; what has no file is built in."""
    files = {path.name.partition(".")[0].replace("-", "_"): path for path in folder.rglob("*.ko*")}
    ordered: dict[str, bytes] = {}

    def take(name: str) -> None:
        if name not in files or name in ordered:
            return
        content = files[name].read_bytes()
        if files[name].suffix == ".xz":
            content = lzma.decompress(content)
        if found := re.search(rb"\0depends=([^\0]*)\0", content):
            for needed in filter(None, found[1].decode().split(",")):
                take(needed.replace("-", "_"))
        ordered[name] = content

    for name in MODULES:
        take(name)
    return list(ordered.values())


def _cpio(entries: Iterable[tuple[str, int, bytes]]) -> bytes:
    """An archive in cpio's "newc" format (Documentation/driver-api/early-userspace/buffer-format.rst of Linux)."""
    archive = bytearray()
    for number, (name, mode, content) in enumerate([*entries, ("TRAILER!!!", 0, b"")], 1):
        path = name.encode() + b"\0"
        fields = (number, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(path), 0)
        archive += b"070701" + b"".join(b"%08X" % value for value in fields) + path
        archive += bytes(-len(archive) % 4) + content
        archive += bytes(-len(archive) % 4)
    return bytes(archive)


def nbd(uri: str, *, reconnect_s: int = 0) -> dict[str, Any]:
    """A disk behind an NBD address on a Unix socket. With `reconnect_s`, a server that went away has so long to come
    back before the guest sees an error."""
    parts = urlsplit(uri)
    server = {"type": "unix", "path": parse_qs(parts.query)["socket"][0]}
    return {"driver": "nbd", "server": server, "export": parts.path.lstrip("/"), "reconnect-delay": reconnect_s}


def raw(path: Path) -> dict[str, Any]:
    """A disk in a raw file."""
    return {"driver": "file", "filename": str(path)}


class Guest:
    """A running machine. Its disks are /dev/vda, /dev/vdb… in the order given; it ends with its script."""

    def __init__(self, kit: Kit, folder: Path, script: str, disks: Sequence[dict[str, Any]]) -> None:
        folder.mkdir()
        self.console = folder / "console"
        self.console.touch()
        initramfs = folder / "initramfs"
        initramfs.write_bytes(kit.initramfs(script))
        command: list[str | Path] = [
            "qemu-system-x86_64", "-accel", "tcg", "-cpu", "max", "-machine", "pc", "-m", "192", "-nodefaults",
            "-no-user-config", "-display", "none", "-no-reboot", "-kernel", kit.kernel, "-initrd", initramfs,
            "-append", _COMMAND_LINE, "-serial", f"file:{self.console}",
        ]  # fmt: skip
        for number, disk in enumerate(disks):
            node = {"driver": "raw", "node-name": f"disk{number}", "file": disk, "discard": "unmap"}
            command += ["-blockdev", json.dumps(node), "-device", f"virtio-blk-pci,drive=disk{number}"]
        self._errors = (folder / "errors").open("w+b")
        self._process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=self._errors, stderr=self._errors, preexec_fn=_die_with_parent
        )

    def said(self) -> list[str]:
        """The whole lines on the console until now."""
        return self.console.read_text(errors="replace").replace("\r", "").split("\n")[:-1]

    def last(self, word: str) -> int:
        """The number in the newest line `WORD NUMBER`; 0 if there is none."""
        found = [line.split()[1] for line in self.said() if line.startswith(f"{word} ")]
        return int(found[-1]) if found else 0

    def wait_for(self, word: str, number: int = 0, *, timeout_s: float = _BOOT_S) -> int:
        """Wait until it has said `WORD NUMBER` with at least this number; returns the newest one said."""
        until = time.monotonic() + timeout_s
        while not any(line.split()[0] == word for line in self.said() if line.strip()) or self.last(word) < number:
            assert self._process.poll() is None, f"the guest ended before it said {word} {number}:\n{self.told()}"
            assert time.monotonic() < until, f"the guest does not say {word} {number}:\n{self.told()}"
            time.sleep(0.02)
        return self.last(word)

    def wait(self, *, timeout_s: float = _BOOT_S) -> list[str]:
        """Wait until it has turned itself off; returns what it said."""
        code = self._process.wait(timeout_s)
        assert code == 0, self.told()
        return self.said()

    def kill(self) -> None:
        """End it as a loss of its host's power would, but for the host; a second call does nothing."""
        self._process.kill()
        self._process.wait()
        self._errors.close()

    def told(self) -> str:
        """The end of the console, and what QEMU complained about."""
        self._errors.seek(0)
        return "\n".join(self.said()[-30:]) + "\n" + self._errors.read().decode(errors="replace")


def _die_with_parent() -> None:
    """A run of tests that is killed leaves no machine behind."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
