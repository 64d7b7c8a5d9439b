"""Images in formats that QEMU reads (qcow2, VHDX, VHD, VMDK, VDI), as raw files: no format is parsed here.

`qemu-storage-daemon` serves the content as a raw file by FUSE; it holds QEMU's own image locks meanwhile, so that an
image which a machine writes is refused. It ends with us: by its pid, and by the system when we are killed.

An image of several files (a backing chain, external data, split extents) is refused, whatever it says: only the one
file is watched for changes. Which format a file has, `names` tells: QEMU is never asked to guess.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from ..errors import BusyError, FormatError, NotFoundError, RefusedError, StorageError, translated
from ..files import FILES
from .names import shows

_DATA_FILE_AT, _DATA_FILE = 72, 4  # of qcow2's incompatible features, big-endian, from version 3 on
_START_S, _STOP_S, _PAUSE_S = 30.0, 60.0, 0.005
_TRIES, _AGAIN_S = 5, 0.1


class FormatInfo(msgspec.Struct, frozen=True):
    """What qemu-img says of an image: bytes in the disk, and on this host's disk."""

    format: str
    virtual_size: int
    actual_size: int


def describe(path: Path, fmt: str) -> FormatInfo:
    """What an image of this format is; RefusedError when it is more than the one file."""
    _refuse_data_file(path, fmt)
    info = _info(path, fmt)
    specific = info.get("format-specific", {}).get("data", {})
    others = [info.get("backing-filename"), specific.get("data-file")]
    others += [each["filename"] for each in specific.get("extents", []) if Path(each["filename"]) != path]
    others = [other for other in others if other]
    if others:
        raise RefusedError(f"{path}: stands on {others[0]}; protect an image that is one file: qemu-img convert makes "
                           "one, and the disks of a running machine are protected by qmp:")  # fmt: skip
    if info.get("encrypted"):
        raise RefusedError(f"{path}: is encrypted; protect it in the running machine, by qmp:")
    return FormatInfo(fmt, info["virtual-size"], info["actual-size"])


def _refuse_data_file(path: Path, fmt: str) -> None:
    """QEMU opens the file that holds the data of a qcow2 even to tell of it: an image that names one never gets there.
    Whoever made the image would choose which file of this host that is."""
    if fmt != "qcow2":
        return
    with FILES.open(path) as file:
        head = file.pread(_DATA_FILE_AT + 8, 0)
    if int.from_bytes(head[4:8]) >= 3 and int.from_bytes(head[_DATA_FILE_AT:]) & _DATA_FILE:
        raise RefusedError(f"{path}: keeps its data in another file; protect an image that is one file: qemu-img "
                           "convert makes one, and the disks of a running machine are protected by qmp:")  # fmt: skip


@contextmanager
def opened_as_raw(path: Path, fmt: str, *, writable: bool = False) -> Iterator[Path]:
    """The content of an image as a raw file, which is there while the block lasts. BusyError: a machine has it."""
    describe(path, fmt)
    folder = Path(tempfile.mkdtemp(prefix="blockreplica-"))
    place = folder / path.name
    process = None
    try:
        process = started(path, fmt, place, writable=writable)
        yield place
    finally:
        if process is not None:
            _stop(process, place)
        shutil.rmtree(folder, ignore_errors=True)


def started(path: Path, fmt: str, place: Path, *, writable: bool) -> subprocess.Popen[bytes]:
    """A daemon that shows an image over file `place`; it ends with the thread that begins it.

    Another daemon of ours may be ending this moment, so it is tried again a few times. BusyError, RefusedError.
    """
    program = _require("qemu-storage-daemon", "qemu-system-common")
    for left in reversed(range(_TRIES)):
        try:
            with translated(place, "making a place for the raw file"):
                detach(place)
                place.parent.mkdir(mode=0o700, exist_ok=True)
                place.touch()
            return _start(program, path, fmt, place, writable=writable)
        except BusyError:
            if left == 0:
                raise
            time.sleep(_AGAIN_S)
    raise AssertionError("unreachable")


def _start(program: str, path: Path, fmt: str, place: Path, *, writable: bool) -> subprocess.Popen[bytes]:
    file = {"driver": "host_device" if stat.S_ISBLK(os.stat(path).st_mode) else "file", "node-name": "file",
            "filename": str(path), "read-only": not writable, "locking": "on", "discard": "unmap"}  # fmt: skip
    image: dict[str, Any] = {"driver": fmt, "node-name": "image", "file": "file", "read-only": not writable,
                             "discard": "unmap"}  # fmt: skip
    if fmt in ("qcow2", "vmdk"):
        image["backing"] = None
    export = {"type": "fuse", "id": "raw", "node-name": "image", "mountpoint": str(place), "writable": writable}
    command = [program, "--blockdev", json.dumps(file), "--blockdev", json.dumps(image), "--export", json.dumps(export)]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen([*ending_with_parent(), *command], stdin=subprocess.DEVNULL,
                                   stdout=subprocess.DEVNULL, stderr=log, start_new_session=True)  # fmt: skip
        until = time.monotonic() + _START_S
        try:
            while not shows(place):
                if process.poll() is not None:
                    raise _refused(path, os.pread(log.fileno(), 1 << 16, 0).decode(errors="replace").strip())
                if time.monotonic() > until:
                    raise StorageError(f"{path}: qemu-storage-daemon does not serve it within {_START_S:.0f} s")
                time.sleep(_PAUSE_S)
        except BaseException:
            _stop(process, place)
            raise
    return process


def ending_with_parent() -> list[str]:
    """What in front of a command makes it end when the thread ends that begins it."""
    guard = shutil.which("setpriv")
    return [guard, "--pdeathsig", "TERM"] if guard is not None else []


def _stop(process: subprocess.Popen[bytes], place: Path) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    finally:
        detach(place)


def detach(place: Path) -> None:
    """Take away a mount whose daemon is dead: it answers nothing but ENOTCONN."""
    try:
        os.stat(place)
    except FileNotFoundError:
        return
    except OSError:
        for command in (["fusermount3", "-uz", str(place)], ["umount", "-l", str(place)]):
            if shutil.which(command[0]) and subprocess.run(command, capture_output=True, check=False).returncode == 0:
                return


def tidy(place: Path, *, wait_s: float = 0) -> None:
    """Remove a place with its folder, unless something is still shown there after `wait_s`."""
    until = time.monotonic() + wait_s
    while shows(place):
        if time.monotonic() >= until:
            return
        time.sleep(_PAUSE_S)
    detach(place)
    with contextlib.suppress(OSError):
        place.unlink(missing_ok=True)
        place.parent.rmdir()


def _refused(path: Path, said: str) -> Exception:
    if "lock" in said:
        return BusyError(f"{path}: is open in another program, perhaps a running machine ({said}); protect the running "
                         "machine by qmp:, or sync when it is off")  # fmt: skip
    if "fuse" in said.lower() or "mount" in said.lower():
        return RefusedError(f"{path}: FUSE does not work here ({said}); it needs /dev/fuse, and fusermount3 for those "
                            "who are not root: install fuse3")  # fmt: skip
    return StorageError(f"{path}: qemu-storage-daemon says: {said}")


def _info(path: Path, fmt: str) -> dict[str, Any]:
    program = _require("qemu-img", "qemu-utils")
    command = [program, "info", "--output=json", "-U", "-f", fmt, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise FormatError(f"{path}: qemu-img can't read it as {fmt}: {done.stderr.strip()}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _require(program: str, package: str) -> str:
    found = shutil.which(program)
    if found is None:
        raise NotFoundError(f"{program} is not installed, and it reads the image; on Debian: apt install {package}")
    return found
