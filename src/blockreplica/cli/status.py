"""`blockreplica status`: how relationships stand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from .. import units
from .common import columns, json_option, plain, show
from .points import as_plain as plain_point

if TYPE_CHECKING:
    from blockreplica import Status


RATE_S = 0.25  #: over which the writes of a disk are counted


def as_plain(status: Status) -> dict[str, Any]:
    """A relationship's status as JSON has it."""
    return {
        "name": status.name,
        "state": status.state,
        "store": str(status.store),
        "points": status.points,
        "newest": plain_point(status.newest) if status.newest else None,
        "lag_seconds": round(status.lag_seconds, 3) if status.lag_seconds is not None else None,
        "incomplete": status.incomplete,
        "block_size": status.block_size,
        "disks": [plain(disk) for disk in status.disks],
        "served": [plain(served) for served in status.served],
    }


def age(status: dict[str, Any]) -> str:
    """How old the newest point is."""
    lag = status["lag_seconds"]
    return "-" if lag is None else units.format_duration(lag)


def describe_all(found: Sequence[dict[str, Any]]) -> str:
    """A line a relationship."""
    if not found:
        return "nothing is protected yet; begin with: blockreplica protect IMAGE --to DIR --name NAME"
    rows = [
        (one["name"], one["state"], one["points"], age(one), len(one["disks"]), len(one["served"]), one["store"])
        for one in found
    ]
    return columns(("NAME", "STATE", "POINTS", "LAG", "DISKS", "SERVED", "STORE"), rows)


def describe(one: dict[str, Any]) -> str:
    """All of one relationship."""
    newest = one["newest"]
    lines = [
        f"{one['name']}: {one['state']}",
        f"store: {one['store']}",
        f"points: {one['points']}" + (f", newest {newest['id']} of {newest['time']}, {age(one)} old" if newest else ""),
    ]
    rows = []
    for disk in one["disks"]:
        sizes = [disk["size"], disk["dirty_bytes"], disk["log_bytes"]]
        shown = ["-" if size is None else units.format_size(size) for size in sizes]
        tracking = disk["tracking"] if disk["pid"] is None else disk["state"]
        rows.append((disk["index"], *shown, *pace(disk), tracking, disk["path"]))
    header = ("DISK", "SIZE", "DIRTY", "LOG", "LAST CUT", "WRITES", "TRACKING", "IMAGE")
    served = [describe_served(each) for each in one["served"]]
    return "\n".join([*lines, columns(header, rows), *served])


def describe_served(each: dict[str, Any]) -> str:
    """A line a served point."""
    kind, pivot = "writable" if each["writable"] else "read-only", each["pivot"]
    line = f"serving point {each['point']}, disk {each['disk']}, by process {each['pid']}: {each['uri']}"
    if pivot is None:
        return f"{line} ({kind})"
    if pivot["size"] is None:
        return f"{line} (pivot to {pivot['to']}: {pivot['error']})"
    amounts = f"{units.format_size(pivot['owned'])} of {units.format_size(pivot['size'])}"
    damaged = f", {units.format_size(pivot['damaged'])} damaged" if pivot["damaged"] else ""
    error = f": {pivot['error']}" if pivot["error"] else ""
    return f"{line} (pivot to {pivot['to']}, {pivot['state']}, {amounts}{damaged}{error})"


def pace(disk: dict[str, Any]) -> tuple[str, str]:
    """How long ago a disk was cut, and how fast it is written."""
    since, rate = disk["cut_age_seconds"], disk["writes_per_second"]
    return "-" if since is None else units.format_duration(since), "-" if rate is None else f"{rate:.0f}/s"


@click.command()
@click.argument("name", required=False)
@json_option
def status(name: str | None, as_json: bool) -> None:
    """Show how NAME stands, or every relationship: points, lag, what is tracked, what is dirty."""
    import blockreplica as br

    if name is None:
        show([as_plain(each.status()) for each in br.relationships()], describe_all, as_json=as_json)
    else:
        show(as_plain(br.relationship(name).status(rate_over_s=RATE_S)), describe, as_json=as_json)
