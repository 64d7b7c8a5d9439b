"""What the commands share: --json, sizes as arguments, columns for people."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import UUID

import click

from .. import units
from ..errors import UsageError

if TYPE_CHECKING:
    from blockreplica import ReplicaView

Value = TypeVar("Value")

#: `--json` for every command, handed over as `as_json`.
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout.")

#: What an image is whose ctime alone changed while nothing tracked it, handed over as `ignore_ctime`.
ctime_option = click.option(
    "--ignore-ctime/--compare-ctime",
    default=None,
    help="Whether an image of which ctime alone changed (its owner) is unchanged, or compared [default: as before].",
)


def size(text: str) -> int:
    """The bytes of an argument such as 64KiB; an option's `type`."""
    try:
        return units.parse_size(text)
    except UsageError as error:
        raise click.BadParameter(str(error)) from None


def duration(text: str) -> float:
    """The seconds of an argument such as 7d; an option's `type`."""
    try:
        return units.parse_duration(text)
    except UsageError as error:
        raise click.BadParameter(str(error)) from None


def store_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Where a replica is that this host knows nothing of, handed over as `store`; see `replica_of`."""
    what = "Of a replica by its store's folder alone: another host's, or one that is protected no longer."
    return click.option("--store", type=click.Path(path_type=Path), metavar="DIR", help=what)(command)


def replica_of(name: str, store: Path | None) -> ReplicaView:
    """The replica of that name: the catalog's, or the one in a store."""
    import blockreplica as br

    return br.replica(store, name) if store is not None else br.relationship(name).replica


def tcp_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Where a server listens besides a Unix socket, handed over as `tcp` and `tls_certificates`."""
    what = "Certificates as nbdkit wants them; clients must have one of the same authority."
    command = click.option("--tls-certificates", type=click.Path(path_type=Path), metavar="DIR", help=what)(command)
    return click.option("--tcp", metavar="HOST:PORT", help="Listen there instead; needs --tls-certificates.")(command)


def process_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """How a server's process is looked after, handed over as `detach` and `pid_file`."""
    path = click.Path(path_type=Path)
    command = click.option("--pid-file", type=path, metavar="FILE", help="Written when it is ready.")(command)
    what = "Return when it is ready; it ends by a SIGTERM to its process."
    return click.option("--detach", is_flag=True, help=what)(command)


def retention_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of a policy, handed over as `last`, `hourly`, ..., `within`, `min_age`; None where not given."""
    number = click.IntRange(min=0)
    for name, what in (
        ("application", "application-consistent points, besides"),
        ("yearly", "points, one a year"), ("monthly", "points, one a month"), ("weekly", "points, one a week"),
        ("daily", "points, one a day"), ("hourly", "points, one an hour"), ("last", "points, the newest"),
    ):  # fmt: skip
        command = click.option(f"--keep-{name}", name, type=number, metavar="N", help=f"Keep N {what}.")(command)
    command = click.option("--keep-within", "within", type=duration, metavar="TIME", help="Keep all, for 7d, 12h, ...")(
        command
    )
    return click.option("--min-age", type=duration, metavar="TIME", help="Nothing younger goes, by running time.")(
        command
    )


def plain(value: object) -> Any:
    """`value` as JSON knows it: structs as objects, paths and UUIDs as strings."""
    if names := getattr(type(value), "__struct_fields__", ()):
        return {name: plain(getattr(value, name)) for name in names}
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, str | int | float | None):
        return value
    if isinstance(value, PurePath | UUID):
        return str(value)
    if isinstance(value, Iterable):
        return [plain(item) for item in value]
    raise TypeError(f"no JSON for {type(value).__name__}")


def show(value: Value, text: Callable[[Value], str], *, as_json: bool) -> None:
    """Print `value` on stdout: as JSON, or as `text` puts it for people."""
    if as_json:
        import json

        click.echo(json.dumps(plain(value), indent=2))
    else:
        click.echo(text(value))


def columns(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Lines of cells under their names, as wide as the longest of the column; numbers to the right."""
    lines = [list(header), *([str(cell) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    numbers = [all(isinstance(row[i], int | float) for row in rows) for i in range(len(header))]

    def padded(cell: str, column: int) -> str:
        return cell.rjust(widths[column]) if numbers[column] else cell.ljust(widths[column])

    return "\n".join("  ".join(map(padded, line, range(len(line)))).rstrip() for line in lines)
