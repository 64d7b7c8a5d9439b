"""`blockreplica points`: lists what can be recovered."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from .. import units
from .common import columns, json_option, show

if TYPE_CHECKING:
    from blockreplica import Point


def describe(points: Sequence[Point]) -> str:
    """A line a point, oldest first."""
    if not points:
        return "no recovery points yet"
    return columns(
        ("POINT", "TIME", "KIND", "DISKS"),
        [
            (
                point.id,
                point.time,
                point.kind,
                ", ".join(f"{d.name} {units.format_size(d.size)}" for d in point.disks),
            )
            for point in points
        ],
    )


@click.command()
@click.argument("name")
@json_option
def points(name: str, as_json: bool) -> None:
    """List the recovery points, oldest first."""
    import blockreplica as br

    show(br.relationship(name).points(), describe, as_json=as_json)
