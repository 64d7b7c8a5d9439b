"""`blockreplica log`: when the trackers of a relationship's images keep a change log."""

from __future__ import annotations

from typing import Literal

import click

from .common import ctime_option, json_option, show


@click.command()
@click.argument("name")
@click.argument("mode", required=False, type=click.Choice(["always", "transit"]))
@ctime_option
@json_option
def log(name: str, mode: Literal["always", "transit"] | None, ignore_ctime: bool | None, as_json: bool) -> None:
    """Show when the images of NAME have a change log, or change how they are tracked from the next sync on.

    always: a recovery point is the cut itself. transit: only while a sync sends what is dirty; writers pay for no
    log in between. An image of several relationships always has one.
    """
    import blockreplica as br

    vm = br.set_log(name, mode) if mode else br.relationship(name)
    if ignore_ctime is not None:
        vm = br.set_ctime(name, ignore=ignore_ctime)
    held = vm.definition
    rule = {None: "as their trackers were told", True: "ignored", False: "compared"}[held.ignore_ctime]
    found = {"name": name, "log": held.log, "ignore_ctime": held.ignore_ctime}
    show(found, lambda found: f"{name}: {found['log']}; a ctime that alone changed: {rule}", as_json=as_json)
