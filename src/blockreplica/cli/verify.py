"""`blockreplica verify`: reads a whole replica and checks it."""

from __future__ import annotations

import time
from typing import Any

import click

from .. import units
from ..errors import DamageError
from .common import columns, json_option, plain, show
from .meter import meter


def describe(report: dict[str, Any]) -> str:
    """What was checked, and what is damaged."""
    read = f"{units.format_size(report['bytes_read'])} read in {units.format_duration(report['seconds'])}"
    checked = f"{report['points']} points, {report['blocks_checked']} blocks checked, {read}"
    if not report["damage"]:
        return f"{checked}: no damage"
    rows = [
        (
            *("-" if each[key] is None else each[key] for key in ("disk", "offset")),
            each["length"],
            ", ".join(each["points"]) or "-",
            each["what"],
        )
        for each in report["damage"]
    ]
    return f"{checked}: damage\n" + columns(("DISK", "OFFSET", "LENGTH", "HURTS POINTS", "WHAT"), rows)


@click.command()
@click.argument("name")
@json_option
def verify(name: str, as_json: bool) -> None:
    """Read all of NAME's replica, every point of it, and check it against its checksums."""
    import blockreplica as br

    began = time.monotonic()
    with meter() as progress:
        report = br.relationship(name).verify(progress=progress)
    found = {"name": name, **plain(report), "seconds": round(time.monotonic() - began, 3)}
    show(found, describe, as_json=as_json)
    if report.damage:
        raise DamageError(
            f"{name}: {len(report.damage)} damaged places in the replica; the points named are hurt, the others whole; "
            f"to repair the newest from the image: blockreplica resync {name} --deep"
        )
