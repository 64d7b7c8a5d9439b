"""A point as an image in another format: qemu-img writes it, reading the served point, which proves every block."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from ..errors import DamageError, NotFoundError, StorageError, UsageError, translated
from ..files import Files
from ..progress import Progress
from ..stores import Replica
from .serve import serve

FORMATS = ("raw", "qcow2", "vhdx", "vpc", "vmdk", "vdi")
_UNCHECKED = ("vpc",)  # what `qemu-img check` can't look through
_OPTIONS = {"vpc": ["-o", "force_size=on"]}  # else its size is rounded to what old disks could have


def convert(
    replica: Replica, point_id: str, disk: int, image_format: str, to: Path, partial: Path, progress: Progress,
    files: Files, *, durable: bool,
) -> None:  # fmt: skip
    """Write a disk of a point to `to` in a format of qemu-img, by way of `partial`, which is begun anew."""
    if image_format not in FORMATS:
        raise UsageError(f"format {image_format!r}: wanted one of {', '.join(FORMATS)}")
    program = shutil.which("qemu-img")
    if program is None:
        raise NotFoundError(
            f"qemu-img is not installed, and it writes {image_format}; on Debian: apt install qemu-utils"
        )
    files.unlink(partial)
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
            with files.open(partial, write=True) as file:
                file.sync()
        files.rename(partial, to)
    except BaseException:
        files.unlink(partial)
        raise
    if durable:
        files.sync_folder(to.parent)


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
