"""`blockreplica log`: when the trackers of a relationship's images keep a change log."""

from __future__ import annotations

from typing import Literal

import click

from .common import json_option, show


@click.command()
@click.argument("name")
@click.argument("mode", required=False, type=click.Choice(["always", "transit"]))
@json_option
def log(name: str, mode: Literal["always", "transit"] | None, as_json: bool) -> None:
    """Show when the images of NAME have a change log, or change it from the next sync on.

    always: a recovery point is the cut itself. transit: only while a sync sends what is dirty; writers pay for no
    log in between. An image of several relationships always has one.
    """
    import blockreplica as br

    vm = br.set_log(name, mode) if mode else br.relationship(name)
    show({"name": name, "log": vm.definition.log}, lambda found: f"{name}: {found['log']}", as_json=as_json)
