"""`blockreplica serve-point`: serves an image as it was at a recovery point over NBD, at once."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .common import duration, json_option

if TYPE_CHECKING:
    from blockreplica import ServedPoint


@click.command("serve-point")
@click.argument("name")
@click.option("--point", metavar="ID", help="As `points` names it; the newest when left out.")
@click.option("--disk", type=click.IntRange(min=0), metavar="N", help="Which one, from 0; needed with several.")
@click.option("--socket", type=click.Path(path_type=Path), metavar="PATH", help="Unix socket [default: a private one].")
@click.option("--tcp", metavar="HOST:PORT", help="Listen there instead; needs --tls-certificates.")
@click.option(
    "--tls-certificates",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Certificates as nbdkit wants them; clients must have one of the same authority.",
)
@click.option("--writable", is_flag=True, help="Clients may write; what they wrote is gone at the end.")
@click.option("--ttl", type=duration, metavar="TIME", help="End after 90s, 15min, 2h, ...")
@click.option("--detach", is_flag=True, help="Return when it is ready; it ends by a SIGTERM to its process.")
@click.option("--pid-file", type=click.Path(path_type=Path), metavar="FILE", help="Written when it is ready.")
@json_option
def serve_point(
    name: str,
    point: str | None,
    disk: int | None,
    socket: Path | None,
    tcp: str | None,
    tls_certificates: Path | None,
    writable: bool,
    ttl: float | None,
    detach: bool,
    pid_file: Path | None,
    as_json: bool,
) -> None:
    """Serve an image as it was at a recovery point over NBD, whatever its size at once.

    Runs until SIGTERM or Ctrl-C. The replica is only read and replicates on; the point is spared by pruning.
    """
    import blockreplica as br

    ending = False

    def end(*_: object) -> None:
        nonlocal ending
        ending = True
        if begun is not None:
            begun.terminate()

    begun: ServedPoint | None = None
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    begun = br.relationship(name).replica.serve(
        point, disk=disk, socket=socket, tcp=tcp, tls=tls_certificates, writable=writable, ttl_s=ttl, detach=detach,
        pid_file=pid_file,
    )  # fmt: skip
    if ending:
        begun.terminate()
    _tell(begun, as_json=as_json)
    if not detach:
        begun.wait()


def _tell(begun: ServedPoint, *, as_json: bool) -> None:
    if as_json:
        import json

        said = {"uri": begun.uri, "pid": begun.pid, "point": begun.point.id, "disk": begun.disk}
        click.echo(json.dumps(said))
    else:
        click.echo(begun.uri)
