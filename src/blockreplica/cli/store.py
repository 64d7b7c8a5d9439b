"""`blockreplica store`: what can be done with a store by its folder alone, without a catalog."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

from .. import units
from ..errors import DamageError, NewerError
from .common import json_option, plain, show, size
from .meter import meter
from .verify import share, table


@click.group()
def store() -> None:
    """Look into a replica store by its folder."""


@store.command()
@click.argument("folder", type=click.Path(path_type=Path), metavar="DIR")
@click.option("--sample", type=share, metavar="SHARE", help="Only so much of it, chosen at random, such as 5%.")
@click.option("--bandwidth", type=size, metavar="SIZE", help="Read no more than so much a second, such as 100MiB.")
@json_option
def check(folder: Path, sample: float | None, bandwidth: int | None, as_json: bool) -> None:
    """Check every replica in the store DIR: format, records, content, undo logs. Nothing is changed."""
    from ..recovery.store_check import check_store
    from ..recovery.verify import Scope

    began = time.monotonic()
    with meter() as progress:
        found = check_store(folder, Scope(sample=sample or 1.0, bandwidth=bandwidth or 0), progress=progress)
    done = {"store": str(folder), "replicas": plain(found), "seconds": round(time.monotonic() - began, 3)}
    show(done, describe, as_json=as_json)
    damaged = [one.name for one in found if one.report.damage]
    newer = [one.newer for one in found if one.newer]
    if damaged:
        raise DamageError(f"{folder}: damage in {', '.join(damaged)}; the points named are hurt, the others whole")
    if newer:
        raise NewerError("; ".join(newer))


def describe(done: dict[str, Any]) -> str:
    """A paragraph a replica."""
    lines = [] if done["replicas"] else ["no replicas"]
    for one in done["replicas"]:
        report = one["report"]
        if one["newer"]:
            lines.append(f"{one['name']}: refused: {one['newer']}")
            continue
        read = units.format_size(report["bytes_read"])
        copy = "disk.img may be copied as it is" if one["copyable"] else "disk.img alone is not the newest point"
        state = "damage" if report["damage"] else "no damage"
        lines.append(f"{one['name']}: {report['points']} points, {read} read, {copy}: {state}")
        if report["damage"]:
            lines.append(table(report["damage"]))
        if one["unknown"]:
            lines.append(f"nobody knows: {', '.join(one['unknown'])}")
    return "\n".join(lines)
