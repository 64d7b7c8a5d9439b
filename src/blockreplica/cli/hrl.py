"""`blockreplica hrl`: looks into change logs, checks them, and takes them elsewhere."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .. import units
from .common import json_option, show
from .meter import meter

if TYPE_CHECKING:
    from ..hrl import Summary
    from ..hrl.apply import Applied
    from ..hrl.convert import Converted

log_argument = click.argument("log", type=click.Path(path_type=Path), metavar="LOG")
salvage_option = click.option(
    "--salvage", is_flag=True, help="Take a log that is unclosed or damaged as far as it is good."
)


@click.group()
def hrl() -> None:
    """Show, check, apply and convert change logs (.hrl), Hyper-V's too."""


@hrl.command("show")
@log_argument
@salvage_option
@json_option
def show_log(log: Path, salvage: bool, as_json: bool) -> None:
    """Print the header of LOG, and its entries in the order written.

    A log that was not closed is shown as far as it can be salvaged; a closed one that is damaged only with --salvage.
    """
    from ..errors import LogOpenError
    from ..hrl import LogReader, listing

    try:
        reader = LogReader.open(log, salvage=salvage)
    except LogOpenError:
        reader = LogReader.open(log, salvage=True)
    with reader:
        reader.check(data=False, slots=False)
        if reader.salvaged:
            what = "damaged" if reader.closed else "not closed"
            click.echo(f"note: {log} is {what}; showing the {reader.total} entries that it holds", err=True)
        for piece in listing.json_pieces(reader) if as_json else listing.text_pieces(reader):
            sys.stdout.write(piece)
        sys.stdout.flush()


@hrl.command()
@log_argument
@json_option
def verify(log: Path, as_json: bool) -> None:
    """Check that LOG is closed, and right in every checksum, count and distance.

    `data: unchecked` says that data carries no checksum, as in Hyper-V's logs: a flipped bit in it can't be seen.
    """
    from ..hrl import LogReader

    with LogReader.open(log) as reader, meter() as progress:
        summary = reader.check(progress=progress)
    show(summary, lambda found: describe(log, found), as_json=as_json)


def describe(log: Path, found: Summary) -> str:
    """A log that is right, for people."""
    amount = units.format_size(found.data_bytes)
    return f"{log}: version {found.version}, closed; {found.entries} entries, {amount} of data; data: {found.data}"


@hrl.command()
@log_argument
@click.argument("image", type=click.Path(path_type=Path), metavar="IMAGE")
@salvage_option
@json_option
def apply(log: Path, image: Path, salvage: bool, as_json: bool) -> None:
    """Write the entries of LOG into IMAGE, after checking all of LOG.

    IMAGE keeps its size: a write beyond its end is refused. Zero entries become holes. Applying a log twice is
    applying it once.
    """
    from ..hrl.apply import apply as apply_log

    with meter() as progress:
        done = apply_log(log, image, salvage=salvage, progress=progress)
    show(done, lambda applied: describe_applied(image, applied), as_json=as_json)


def describe_applied(image: Path, done: Applied) -> str:
    """What an apply did, for people."""
    written, zeroed = units.format_size(done.bytes_written), units.format_size(done.bytes_zeroed)
    salvaged = " (salvaged)" if done.salvaged else ""
    return f"{image}: {done.entries} entries{salvaged}, {written} written, {zeroed} zeroed; data: {done.data}"


@hrl.command()
@log_argument
@click.argument("out", type=click.Path(path_type=Path), metavar="OUT")
@click.option("--strict", is_flag=True, help="Version 2.0, for any reader of [MS-HRL]; else 2.1.")
@salvage_option
@click.option("--force", is_flag=True, help="Replace OUT when it exists.")
@json_option
def convert(log: Path, out: Path, strict: bool, salvage: bool, force: bool, as_json: bool) -> None:
    """Rewrite LOG as OUT, in another version of the format.

    Strict logs carry zeros as data (holes in the file). OUT appears complete or not at all.
    """
    from ..hrl.convert import convert as convert_log

    with meter() as progress:
        done = convert_log(log, out, strict=strict, salvage=salvage, force=force, progress=progress)
    show(done, lambda converted: describe_converted(out, converted), as_json=as_json)


def describe_converted(out: Path, done: Converted) -> str:
    """What was written, for people."""
    salvaged = " (salvaged)" if done.salvaged else ""
    return f"{out}: version {done.version}, {done.entries} entries{salvaged}, {units.format_size(done.size)}"
