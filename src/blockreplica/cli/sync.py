"""`blockreplica sync` and `resync`: bring a replica up to date."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from .. import units
from .common import json_option, show, size
from .meter import meter

if TYPE_CHECKING:
    from blockreplica import SyncResult


def describe(result: SyncResult) -> str:
    """What was done, and why, for people."""
    amounts = [
        (result.bytes_scanned, "scanned"),
        (result.bytes_dirty, "changed"),
        (result.bytes_skipped, "of it already there"),
        (result.bytes_sent, "sent"),
    ]
    said = [f"{units.format_size(amount)} {what}" for amount, what in amounts if amount] or ["nothing changed"]
    lines = [f"{result.action}: {', '.join(said)}, in {units.format_duration(result.seconds)}"]
    if result.reason:
        lines.append(f"because {result.reason}")
    lines += [f"recovery point {point} (application-consistent), of an earlier cut" for point in result.points[:-1]]
    lines.append(f"recovery point {result.point} ({result.kind})" if result.point else "no recovery point")
    return "\n".join([*lines, *(f"warning: {warning}" for warning in result.warnings)])


@click.command()
@click.argument("name")
@json_option
def sync(name: str, as_json: bool) -> None:
    """Send what changed since the last time, and keep a recovery point.

    Sends a delta where that is enough, resynchronizes where it is not, and says which and why.
    """
    import blockreplica as br

    with meter() as progress:
        result = br.relationship(name).sync(progress=progress)
    show(result, describe, as_json=as_json)


@click.command()
@click.argument("name")
@click.option("--deep", is_flag=True, help="Read the replica too, instead of trusting its checksum table.")
@click.option("--block-size", type=size, metavar="SIZE", help="What one checksum covers from then on, 4 KiB to 4 MiB.")
@json_option
def resync(name: str, deep: bool, block_size: int | None, as_json: bool) -> None:
    """Compare the whole image with its replica, and send the blocks that differ.

    With --block-size the replica then goes on with checksums of that size. Its recovery points stay, proved by those
    that they have.
    """
    import blockreplica as br

    with meter() as progress:
        result = br.relationship(name).resync(deep=deep, block_size=block_size, progress=progress)
    show(result, describe, as_json=as_json)
