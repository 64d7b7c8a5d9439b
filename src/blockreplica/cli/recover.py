"""`blockreplica recover`: writes an image as it was at a recovery point into a file."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

from .. import units
from .common import json_option, replica_of, show, size, store_option
from .meter import meter


@click.command()
@click.argument("name")
@click.option("--point", metavar="ID", help="As `points` names it; the newest when left out.")
@click.option("--to", required=True, type=click.Path(path_type=Path), metavar="FILE", help="Where to.")
@click.option("--disk", type=click.IntRange(min=0), metavar="N", help="Which one, from 0; needed with several.")
@click.option("--force", is_flag=True, help="Replace FILE when it exists.")
@click.option("--in-place", is_flag=True, help="Change FILE, an image or block device, writing only what differs.")
@click.option("--unchecked", is_flag=True, help="Also blocks whose checksums the replica has lost.")
@click.option("--offset", type=size, metavar="SIZE", help="Only from there; with --length.")
@click.option("--length", type=size, metavar="SIZE", help="Only so much; from 0 without --offset.")
@click.option(
    "--format",
    "image_format",
    type=click.Choice(["raw", "qcow2", "vhdx", "vpc", "vmdk", "vdi"]),
    default="raw",
    help="Of FILE [default: raw].",
)
@click.option("--no-fsync", is_flag=True, help="Do not wait until FILE, a new one, is on the disk.")
@store_option
@json_option
def recover(
    name: str,
    store: Path | None,
    point: str | None,
    to: Path,
    disk: int | None,
    force: bool,
    in_place: bool,
    unchecked: bool,
    offset: int | None,
    length: int | None,
    image_format: str,
    no_fsync: bool,
    as_json: bool,
) -> None:
    """Recover an image as it was at a recovery point into FILE.

    The file is sparse, and checked against the point's checksums. The replica is only read. Interrupted, the same
    command goes on where it was.
    """
    from blockreplica.extents import Extent

    if offset is not None and length is None:
        raise click.UsageError("--offset needs --length")
    part = Extent(offset or 0, length) if length is not None else None
    began = time.monotonic()
    with meter() as progress:
        recovered = replica_of(name, store).recover(
            point, to, disk=disk, force=force, unchecked=unchecked, part=part, in_place=in_place,
            image_format=image_format, durable=not no_fsync, progress=progress,
        )  # fmt: skip
    took = round(time.monotonic() - began, 3)
    done = {
        "name": name, "point": recovered, "disk": disk or 0, "to": to, "format": image_format,
        "size": size_of(to), "seconds": took, "unchecked": unchecked,
        "durable": not no_fsync,
    }  # fmt: skip
    show(done, describe, as_json=as_json)


def size_of(path: Path) -> int:
    """Bytes in a file, or of a block device."""
    from blockreplica.files import FILES

    with FILES.open(path) as file:
        return file.size()


def describe(done: dict[str, Any]) -> str:
    """What was recovered, for people."""
    took = f"{units.format_size(done['size'])} in {units.format_duration(done['seconds'])}"
    proof = "what has no checksum any more is unproved" if done["unchecked"] else "every checksum right"
    state = "" if done["durable"] else "; not yet on the disk for certain"
    return f"recovered point {done['point']} to {done['to']}: {took}, {proof}{state}"
