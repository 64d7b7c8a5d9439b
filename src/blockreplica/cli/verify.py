"""`blockreplica verify` and `repair`: reads a replica and checks it, and puts back what it can."""

from __future__ import annotations

import time
from typing import Any

import click

from .. import units
from ..errors import DamageError
from .common import columns, json_option, plain, show, size
from .meter import meter


def share(text: str) -> float:
    """The fraction that an argument such as 5% means; an option's `type`."""
    try:
        value = float(text.removesuffix("%")) / 100 if text.endswith("%") else -1.0
    except ValueError:
        value = -1.0
    if not 0 < value <= 1:
        raise click.BadParameter(f"{text!r}: wanted a share above 0% up to 100%")
    return value


def table(damage: list[dict[str, Any]]) -> str:
    """Damage, a line each."""
    rows = [
        (
            *("-" if each[key] is None else each[key] for key in ("disk", "offset")),
            each["length"],
            ", ".join(each["points"]) or "-",
            each["what"],
        )
        for each in damage
    ]
    return columns(("DISK", "OFFSET", "LENGTH", "HURTS POINTS", "WHAT"), rows)


def describe(report: dict[str, Any]) -> str:
    """What was checked, and what is damaged."""
    read = f"{units.format_size(report['bytes_read'])} read in {units.format_duration(report['seconds'])}"
    checked = f"{report['points']} points, {report['blocks_checked']} blocks checked, {read}"
    notes = [f"note: {note}" for note in report["notes"]]
    if not report["damage"]:
        return "\n".join([f"{checked}: no damage", *notes])
    return "\n".join([f"{checked}: damage", table(report["damage"]), *notes])


@click.command()
@click.argument("name")
@click.option("--point", metavar="ID", help="Only the content of this point, as it would be recovered.")
@click.option("--all", "everything", is_flag=True, help="Everything, which is what is checked when nothing is said.")
@click.option("--sample", type=share, metavar="SHARE", help="Only so much of it, chosen at random, such as 5%.")
@click.option("--bandwidth", type=size, metavar="SIZE", help="Read no more than so much a second, such as 100MiB.")
@json_option
def verify(
    name: str, point: str | None, everything: bool, sample: float | None, bandwidth: int | None, as_json: bool
) -> None:
    """Read all of NAME's replica, every point of it, and check it against its checksums.

    Syncs may go on meanwhile. Points that are found damaged are marked, until they are found whole.
    """
    import blockreplica as br

    if point is not None and everything:
        raise click.UsageError("--point checks one point, --all every one: give one of them")
    began = time.monotonic()
    with meter() as progress:
        scope = br.Scope(point=point, sample=sample or 1.0, bandwidth=bandwidth or 0)
        report = br.relationship(name).verify(scope, progress=progress)
    found = {"name": name, **plain(report), "seconds": round(time.monotonic() - began, 3)}
    show(found, describe, as_json=as_json)
    if report.damage:
        raise DamageError(
            f"{name}: {len(report.damage)} damaged places in the replica; the points named are hurt, the others whole; "
            f"to get back what the image still has: blockreplica repair {name}"
        )


@click.command()
@click.argument("name")
@json_option
def repair(name: str, as_json: bool) -> None:
    """Put damaged blocks of NAME's replica back where the image, or the replica itself, still has them.

    Verifies before and afterwards. What can't be had back stays damaged, and its points stay marked.
    """
    import blockreplica as br

    began = time.monotonic()
    with meter() as progress:
        report = br.relationship(name).repair(progress=progress)
    done = {
        "name": name, "found": plain(report.found), "repaired": plain(report.repaired),
        "damage": plain(report.after.damage), "seconds": round(time.monotonic() - began, 3),
    }  # fmt: skip
    show(done, _repaired, as_json=as_json)
    if report.after.damage:
        raise DamageError(f"{name}: {len(report.after.damage)} damaged places are left; the points named are hurt")


def _repaired(done: dict[str, Any]) -> str:
    said = f"{len(done['found'])} damaged places, {len(done['repaired'])} blocks put back"
    return f"{said}, {len(done['damage'])} places left\n{table(done['damage'])}" if done["damage"] else said
