"""A point as an image in another format: qemu-img writes it, reading the served point, which proves every block."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from ..errors import BusyError, DamageError, NotFoundError, RefusedError, StorageError, UsageError, translated
from ..files import File, Files
from ..progress import Progress
from ..stores import Replica
from .serve import serve

PARTIAL = ".blockreplica-partial"  # a name that nobody else's file has: what stands there is taken up
FORMATS = ("raw", "qcow2", "vhdx", "vpc", "vmdk", "vdi")
_UNCHECKED = ("vpc",)  # what `qemu-img check` can't look through
_OPTIONS = {"vpc": ["-o", "force_size=on"]}  # else its size is rounded to what old disks could have


def convert(
    replica: Replica, point_id: str, disk: int, image_format: str, to: Path, progress: Progress, files: Files, *,
    durable: bool, force: bool,
) -> None:  # fmt: skip
    """Write a disk of a point to `to` in a format of qemu-img, by way of a file beside it, which is begun anew."""
    if image_format not in FORMATS:
        raise UsageError(f"format {image_format!r}: wanted one of {', '.join(FORMATS)}")
    program = shutil.which("qemu-img")
    if program is None:
        raise NotFoundError(
            f"qemu-img is not installed, and it writes {image_format}; on Debian: apt install qemu-utils"
        )
    partial = to.with_name(to.name + PARTIAL)
    with files.open(partial, write=True, create=True) as held:
        if not held.lock() or not files.is_at(held, partial):
            raise BusyError(f"{partial}: another recovery writes to it; wait for that, or choose another file")
        held.truncate(0)
        try:
            with serve(replica, point_id, disk=disk) as served:
                size = served.point.disks[disk].size
                progress.start(f"recovering {point_id}", size)
                options = [*_OPTIONS.get(image_format, []), "-O", image_format]
                _run([program, "convert", "-f", "raw", *options, served.uri, str(partial)], partial, served.told)
                progress.advance(size)
            if image_format not in _UNCHECKED:
                _run([program, "check", "-q", "-f", image_format, str(partial)], partial, lambda: "")
            if durable:
                held.sync()
            require_still(held, partial, to, files, force=force)
            files.rename(partial, to)
        except BaseException:  # Ctrl-C too: it is begun anew
            if files.is_at(held, partial):
                files.unlink(partial)
            raise
    if durable:
        files.sync_folder(to.parent)


def require_still(target: File, partial: Path, to: Path, files: Files, *, force: bool) -> None:
    """Before `target`, at `partial`, gets the name `to`: it is still there, and the name still free."""
    if not files.is_at(target, partial):
        raise BusyError(f"{partial}: somebody took it away or put another file there; recover again")
    if not force and files.exists(to):
        raise RefusedError(f"{to}: came to be meanwhile; choose another file, or --force to replace it")


def _run(command: list[str], path: Path, told: Callable[[], str]) -> None:
    with translated(path, "starting qemu-img"):
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        said, _ = process.communicate()
    except BaseException:
        process.kill()
        process.wait()
        raise
    if process.returncode == 0:
        return
    served = told()
    if "checksums" in served:
        raise DamageError(f"{path}: nothing was written: {served}")
    raise StorageError(f"{path}: qemu-img failed: {said.decode(errors='replace').strip()} {served}".rstrip())
