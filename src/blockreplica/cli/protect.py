"""`blockreplica protect`: makes a relationship and the first copy."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click

from .common import ctime_option, json_option, retention_options, show, size
from .meter import meter
from .sync import describe


@click.command()
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="IMAGE...")
@click.option("--to", "store", required=True, type=click.Path(path_type=Path), metavar="DIR", help="The replica store.")
@click.option("--name", required=True, help="What the relationship is called from now on.")
@click.option(
    "--block-size",
    type=size,
    metavar="SIZE",
    default="64KiB",
    show_default=True,
    help="What one checksum covers; a power of two.",
)
@click.option("--keep", type=click.IntRange(min=1), default=24, show_default=True, help="Recovery points to keep.")
@retention_options
@click.option(
    "--seed",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Start from this copy; checksums say what differs.",
)
@click.option(
    "--tracking-dir",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Where the images' trackers have their files, if not beside them.",
)
@click.option(
    "--format",
    "format_",
    metavar="FORMAT",
    help="raw, qcow2, vhdx, vpc (VHD), vmdk or vdi, where name and content of an image differ.",
)
@click.option(
    "--guest-agent",
    type=click.Path(path_type=Path),
    metavar="SOCKET",
    help="Freeze and thaw the guest around each cut, by its qemu-ga.",
)
@click.option(
    "--pre-cut", metavar="COMMAND", default="", help="Run before each cut; failing, the point is crash-consistent."
)
@click.option("--post-cut", metavar="COMMAND", default="", help="Run after each cut, whatever happened.")
@click.option(
    "--log",
    type=click.Choice(["always", "transit"]),
    default="always",
    show_default=True,
    help="When the images' trackers keep a log: always, or only while a sync sends what is dirty.",
)
@ctime_option
@json_option
def protect(
    images: tuple[Path, ...],
    store: Path,
    name: str,
    block_size: int,
    keep: int,
    seed: Path | None,
    tracking_dir: Path | None,
    format_: str | None,
    guest_agent: Path | None,
    pre_cut: str,
    post_cut: str,
    log: Literal["always", "transit"],
    ignore_ctime: bool | None,
    as_json: bool,
    **rules: float | None,
) -> None:
    """Replicate images into a store, from now on as NAME.

    An IMAGE is a file, a block device, or the disks of a running QEMU as qmp:SOCKET?node=NAME[,NAME...].

    Makes the first copy, while the images may be written through a tracker. Several images are cut together,
    and share every recovery point.
    """
    import blockreplica as br

    given = {rule: value for rule, value in rules.items() if value is not None}
    policy = br.Policy.parse(given if given.keys() - {"min_age"} else {"last": keep, **given}) if given else None
    with meter() as progress:
        made = br.protect(
            images, store, name=name, block_size=block_size, keep=keep, policy=policy, seed=seed,
            tracking_dir=tracking_dir, log=log, format=format_, guest_agent=guest_agent, pre_cut=pre_cut,
            post_cut=post_cut, ignore_ctime=ignore_ctime, progress=progress,
        )  # fmt: skip
    assert made.last is not None
    show(made.last, lambda last: f"{name} is protected\n{describe(last)}", as_json=as_json)
