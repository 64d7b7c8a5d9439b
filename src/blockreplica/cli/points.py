"""`blockreplica points`: lists what can be recovered, pins points, says which are kept and takes out the others."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .. import units
from .common import columns, json_option, plain, replica_of, retention_options, show, store_option

if TYPE_CHECKING:
    from blockreplica import Decision, PointRecord
    from blockreplica.manifest import MarksRecord


class Points(click.Group):
    """A group whose command `list` may be left out."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """A word that is no command is a relationship's name."""
        return super().resolve_command(ctx, args if args[0] in self.commands else ["list", *args])

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Options before the name belong to `list`, too."""
        if args and args[0].split("=")[0] in ("--json", "--store"):
            args = ["list", *args]
        return super().parse_args(ctx, args)


def as_plain(point: PointRecord, marks: MarksRecord | None = None) -> dict[str, Any]:
    """A point as JSON has it; with what people and verify say of it, when that is at hand."""
    known = {
        "id": point.id,
        "generation": point.generation,
        "epoch": point.epoch,
        "time": units.format_time(point.time),
        "kind": point.kind,
        "disks": [{"index": disk.index, "name": disk.name, "size": disk.size} for disk in point.disks],
    }
    if marks is not None:
        known["pinned"] = point.epoch in marks.pinned
        known["damage"] = [mark.what for mark in marks.damaged if mark.epoch == point.epoch]
    known["warning"] = point.unusual
    known["last_before"] = point.calm
    return known


def remarks(point: dict[str, Any]) -> str:
    """What is special about a point, in a few words."""
    said = [
        *(["pinned"] if point["pinned"] else []),
        *(["DAMAGED"] if point["damage"] else []),
        *([f"UNUSUAL (the last before: {point['last_before']})"] if point["warning"] else []),
    ]
    return ", ".join(said)


def describe(points: Sequence[dict[str, Any]]) -> str:
    """A line a point, oldest first."""
    if not points:
        return "no recovery points yet"
    rows = []
    for point in points:
        disks = ", ".join(f"{disk['name']} {units.format_size(disk['size'])}" for disk in point["disks"])
        rows.append((point["id"], point["time"], point["kind"], disks, remarks(point)))
    if not any(row[-1] for row in rows):
        return columns(("POINT", "TIME", "KIND", "DISKS"), [row[:-1] for row in rows])
    return columns(("POINT", "TIME", "KIND", "DISKS", "REMARKS"), rows)


def decided(decision: Decision) -> dict[str, Any]:
    """A decision as JSON has it."""
    point = decision.point
    return {
        "point": point.id,
        "time": units.format_time(point.time),
        "kind": point.kind,
        "keep": decision.keep,
        "reasons": decision.reasons,
    }


def explain(done: dict[str, Any]) -> str:
    """Every decision, for people."""
    gone = "would go" if done["dry_run"] else "gone"
    rows = [
        (each["point"], each["time"], "kept" if each["keep"] else gone, "; ".join(each["reasons"]))
        for each in done["decisions"]
    ]
    lines = [columns(("POINT", "TIME", "DECISION", "WHY"), rows)] if rows else ["no recovery points yet"]
    return "\n".join([*lines, *(f"note: {note}" for note in done["put_off"])])


@click.group(cls=Points)
def points() -> None:
    """List the recovery points (`points NAME`), pin them, say which are kept."""


@points.command("list")
@click.argument("name")
@store_option
@json_option
def list_points(name: str, store: Path | None, as_json: bool) -> None:
    """List the recovery points, oldest first."""
    replica = replica_of(name, store)
    marks = replica.base.marks()
    show([as_plain(point, marks) for point in replica.points()], describe, as_json=as_json)


@points.command()
@click.argument("name")
@click.argument("point")
@json_option
def pin(name: str, point: str, as_json: bool) -> None:
    """Keep POINT until it is unpinned, whatever the policy says."""
    _pin(name, point, pinned=True, as_json=as_json)


@points.command()
@click.argument("name")
@click.argument("point")
@json_option
def unpin(name: str, point: str, as_json: bool) -> None:
    """Let the policy decide about POINT again."""
    _pin(name, point, pinned=False, as_json=as_json)


def _pin(name: str, point: str, *, pinned: bool, as_json: bool) -> None:
    import blockreplica as br

    found = br.relationship(name).pin(point, pinned=pinned)
    done = {"name": name, "point": found, "pinned": pinned}
    show(done, lambda _: f"point {found} is {'pinned' if pinned else 'pinned no longer'}", as_json=as_json)


@points.command()
@click.argument("name")
@click.option("--dry-run", is_flag=True, help="Only say what would go, and why.")
@json_option
def prune(name: str, dry_run: bool, as_json: bool) -> None:
    """Take out the points that the policy of NAME does not keep; says of every point why it stays or goes."""
    import blockreplica as br

    vm = br.relationship(name)
    decisions, put_off = (vm.decisions(), []) if dry_run else vm.prune()
    done = {"name": name, "dry_run": dry_run, "decisions": [decided(each) for each in decisions], "put_off": put_off}
    show(done, explain, as_json=as_json)


@points.command()
@click.argument("name")
@retention_options
@json_option
def policy(name: str, as_json: bool, **rules: float | None) -> None:
    """Show which points of NAME are kept, or change it: what is not given is no rule any longer.

    It counts from the next sync or prune on.
    """
    import blockreplica as br

    given = {rule: value for rule, value in rules.items() if value is not None}
    vm = br.set_policy(name, br.Policy.parse(given)) if given else br.relationship(name)
    show({"name": name, **plain(vm.definition.retention)}, _rules, as_json=as_json)


def _rules(policy: dict[str, Any]) -> str:
    times = ("within", "min_age")
    rows = [
        (rule, units.format_duration(value) if rule in times else value)
        for rule, value in policy.items() if rule != "name" and value
    ]  # fmt: skip
    return columns(("RULE", "KEEPS"), rows) if rows else "every point is kept"
