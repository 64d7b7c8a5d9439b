"""`blockreplica unprotect`: ends a relationship."""

from __future__ import annotations

from pathlib import Path

import click

from .common import json_option, show


@click.command()
@click.argument("name")
@click.option("--delete-replica", is_flag=True, help="Delete the replica and all its recovery points as well.")
@json_option
def unprotect(name: str, delete_replica: bool, as_json: bool) -> None:
    """End the replication of NAME; its replica stays unless told otherwise."""
    import blockreplica as br

    ended = {"name": name, "replica": None if delete_replica else br.relationship(name).store}
    br.unprotect(name, delete_replica=delete_replica)
    show(ended, describe, as_json=as_json)


def describe(ended: dict[str, str | Path | None]) -> str:
    """What is left, for people."""
    left = f"its replica stays in {ended['replica']}" if ended["replica"] else "its replica is deleted"
    return f"{ended['name']} is no longer protected; {left}"
