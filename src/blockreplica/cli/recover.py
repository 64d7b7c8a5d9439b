"""`blockreplica recover`: writes an image as it was at a recovery point into a file."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

from .. import units
from .common import json_option, show
from .meter import meter


@click.command()
@click.argument("name")
@click.option("--point", metavar="ID", help="As `points` names it; the newest when left out.")
@click.option("--to", required=True, type=click.Path(path_type=Path), metavar="FILE", help="Where to.")
@click.option("--disk", type=click.IntRange(min=0), metavar="N", help="Which one, from 0; needed with several.")
@click.option("--force", is_flag=True, help="Replace FILE when it exists.")
@json_option
def recover(name: str, point: str | None, to: Path, disk: int | None, force: bool, as_json: bool) -> None:
    """Recover an image as it was at a recovery point into FILE.

    The file is sparse, and checked against the point's checksums. The replica is only read.
    """
    import blockreplica as br

    began = time.monotonic()
    with meter() as progress:
        recovered = br.relationship(name).replica.recover(point, to, disk=disk, force=force, progress=progress)
    took = round(time.monotonic() - began, 3)
    done = {"name": name, "point": recovered, "disk": disk or 0, "to": to, "size": to.stat().st_size, "seconds": took}
    show(done, describe, as_json=as_json)


def describe(done: dict[str, Any]) -> str:
    """What was recovered, for people."""
    took = f"{units.format_size(done['size'])} in {units.format_duration(done['seconds'])}"
    return f"recovered point {done['point']} to {done['to']}: {took}, every checksum right"
