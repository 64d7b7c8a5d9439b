"""`blockreplica recover`: writes an image as it was at a recovery point into a file."""

from __future__ import annotations

import time
from pathlib import Path

import click

from .. import units
from ..errors import NotFoundError, UsageError
from .common import json_option, show
from .meter import meter


@click.command()
@click.argument("name")
@click.option("--point", metavar="ID", help="As `points` names it; the newest when left out.")
@click.option("--to", required=True, type=click.Path(path_type=Path), metavar="FILE", help="Where to.")
@click.option(
    "--disk", type=click.IntRange(min=0), metavar="N", help="Which one, from 0; needed with several."
)
@click.option("--force", is_flag=True, help="Replace FILE when it exists.")
@json_option
def recover(name: str, point: str | None, to: Path, disk: int | None, force: bool, as_json: bool) -> None:
    """Recover an image as it was at a recovery point into FILE.

    The file is sparse, and checked against the point's checksums. The replica is only read.
    """
    import blockreplica as br

    relationship = br.relationship(name)
    if disk is None and len(relationship.images) > 1:
        raise UsageError(
            f"{name} has {len(relationship.images)} disks: say which one by --disk, counted from 0"
        )
    known = relationship.points()
    if not known:
        raise NotFoundError(f"{name} has no recovery points yet; run: blockreplica sync {name}")
    point = point or known[-1].id
    began = time.monotonic()
    with meter() as progress:
        relationship.replica.recover(point, to, disk=disk or 0, force=force, progress=progress)
    done = {"name": name, "point": point, "disk": disk or 0, "to": to, "size": to.stat().st_size}
    done["seconds"] = round(time.monotonic() - began, 3)
    show(done, describe, as_json=as_json)


def describe(done: dict[str, object]) -> str:
    """What was recovered, for people."""
    size, seconds = (
        units.format_size(int(str(done["size"]))),
        units.format_duration(float(str(done["seconds"]))),
    )
    return f"recovered point {done['point']} to {done['to']}: {size} in {seconds}, every checksum right"
