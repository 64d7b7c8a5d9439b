"""`blockreplica export`: serves a tracked image over NBD."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from .common import ctime_option, json_option, process_options, size, tcp_options

if TYPE_CHECKING:
    from blockreplica import Export


@click.command()
@click.argument("image", type=click.Path(path_type=Path))
@click.option("--socket", type=click.Path(path_type=Path), metavar="PATH", help="Unix socket [default: IMAGE.nbd].")
@tcp_options
@click.option("--tracking-dir", type=click.Path(path_type=Path), metavar="DIR", help="Where its logs are.")
@click.option("--log", type=click.Choice(["always", "transit"]), help="When a log is kept [default: as before].")
@click.option("--log-limit", type=size, metavar="SIZE", help="Of one epoch's log [default: half of the image].")
@click.option(
    "--format",
    "fmt",
    metavar="FORMAT",
    help="raw, qcow2, vhdx, vhd, vmdk or vdi [default: by name and content, which must agree].",
)
@click.option("--threads", type=click.IntRange(1, 256), help="A connection [default: 16].")
@ctime_option
@click.option("--read-only", is_flag=True, help="Clients may not write.")
@process_options
@json_option
def export(
    image: Path,
    socket: Path | None,
    tcp: str | None,
    tls_certificates: Path | None,
    tracking_dir: Path | None,
    log: Literal["always", "transit"] | None,
    log_limit: int | None,
    fmt: str | None,
    threads: int | None,
    ignore_ctime: bool | None,
    read_only: bool,
    detach: bool,
    pid_file: Path | None,
    as_json: bool,
) -> None:
    """Serve IMAGE over NBD; every change goes into the image and its change log.

    Runs until SIGTERM or Ctrl-C, then seals the log and removes the socket.
    """
    import blockreplica as br

    _serve(
        lambda: br.export(
            image, socket=socket, tcp=tcp, tls=tls_certificates, tracking_dir=tracking_dir, log=log,
            log_limit=log_limit, read_only=read_only, detach=detach, pid_file=pid_file, format=fmt, threads=threads,
            ignore_ctime=ignore_ctime,
        ),
        detach=detach, as_json=as_json,
    )  # fmt: skip


def _serve(begin: Callable[[], Export], *, detach: bool, as_json: bool) -> None:
    ending, begun = False, None

    def end(*_: object) -> None:
        nonlocal ending
        ending = True
        if begun is not None:
            begun.terminate()

    _on_signals(end)
    begun = begin()
    if ending:
        begun.terminate()
    _tell(begun, as_json=as_json)
    if not detach:
        begun.wait()


def _on_signals(end: Callable[..., None]) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)


def _tell(begun: Export, *, as_json: bool) -> None:
    if as_json:
        import json

        click.echo(json.dumps({"uri": begun.uri, "pid": begun.pid}))
    else:
        click.echo(begun.uri)
