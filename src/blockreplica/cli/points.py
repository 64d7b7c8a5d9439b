"""`blockreplica points`: lists what can be recovered."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from .. import units
from .common import columns, json_option, show

if TYPE_CHECKING:
    from blockreplica import PointRecord


def as_plain(point: PointRecord) -> dict[str, Any]:
    """A point as JSON has it."""
    return {
        "id": point.id,
        "generation": point.generation,
        "epoch": point.epoch,
        "time": units.format_time(point.time),
        "kind": point.kind,
        "disks": [{"index": disk.index, "name": disk.name, "size": disk.size} for disk in point.disks],
    }


def describe(points: Sequence[dict[str, Any]]) -> str:
    """A line a point, oldest first."""
    if not points:
        return "no recovery points yet"
    rows = []
    for point in points:
        disks = ", ".join(f"{disk['name']} {units.format_size(disk['size'])}" for disk in point["disks"])
        rows.append((point["id"], point["time"], point["kind"], disks))
    return columns(("POINT", "TIME", "KIND", "DISKS"), rows)


@click.command()
@click.argument("name")
@json_option
def points(name: str, as_json: bool) -> None:
    """List the recovery points, oldest first."""
    import blockreplica as br

    show([as_plain(point) for point in br.relationship(name).points()], describe, as_json=as_json)
