"""`blockreplica serve-point`: serves an image as it was at a recovery point over NBD, at once."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .common import duration, json_option, process_options, replica_of, size, store_option, tcp_options
from .meter import meter

if TYPE_CHECKING:
    from blockreplica import ServedPoint
    from blockreplica.recovery.pivot import Pivot

POLL_S = 0.2


@click.command("serve-point")
@click.argument("name")
@click.option("--point", metavar="ID", help="As `points` names it; the newest when left out.")
@click.option("--disk", type=click.IntRange(min=0), metavar="N", help="Which one, from 0; needed with several.")
@click.option("--socket", type=click.Path(path_type=Path), metavar="PATH", help="Unix socket [default: a private one].")
@tcp_options
@click.option("--writable", is_flag=True, help="Clients may write; what they wrote is gone at the end.")
@click.option(
    "--pivot",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Clients write to FILE, a new image, which also gets the rest of the disk.",
)
@click.option("--rate", type=size, default="0", metavar="SIZE", help="Of --pivot: copy so much a second at the most.")
@click.option("--ttl", type=duration, metavar="TIME", help="End after 90s, 15min, 2h, ...")
@process_options
@store_option
@json_option
def serve_point(
    name: str,
    store: Path | None,
    point: str | None,
    disk: int | None,
    socket: Path | None,
    tcp: str | None,
    tls_certificates: Path | None,
    writable: bool,
    pivot: Path | None,
    rate: int,
    ttl: float | None,
    detach: bool,
    pid_file: Path | None,
    as_json: bool,
) -> None:
    """Serve an image as it was at a recovery point over NBD, whatever its size at once.

    Runs until SIGTERM or Ctrl-C. The replica is only read and replicates on; the point is spared by pruning. With
    --pivot the point becomes FILE while it is used; once that is whole, the replica is needed no more. Interrupted, the
    same command goes on.
    """
    where = {
        "disk": disk, "socket": socket, "tcp": tcp, "tls": tls_certificates, "writable": writable, "ttl_s": ttl,
        "detach": detach, "pid_file": pid_file,
    }  # fmt: skip
    _run((name, store), point, pivot, rate, where, as_json=as_json)


def _run(
    whose: tuple[str, Path | None], point: str | None, pivot: Path | None, rate: int, where: dict[str, Any], *,
    as_json: bool,
) -> None:  # fmt: skip
    ending = False

    def end(*_: object) -> None:
        nonlocal ending
        ending = True
        if begun is not None:
            begun.terminate()

    begun: ServedPoint | None = None
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    begun = _serve(whose, point, pivot, rate, **where)
    if ending:
        begun.terminate()
    _tell(begun, as_json=as_json)
    if not where["detach"]:
        _watch(begun, as_json=as_json)


def _serve(
    whose: tuple[str, Path | None], point: str | None, pivot: Path | None, rate: int, *, writable: bool, **where: Any
) -> ServedPoint:
    """The point; or the image that it became, which needs no replica."""
    import blockreplica as br
    from blockreplica.recovery.pivot import pivot_begun, read_pivot
    from blockreplica.recovery.serve import serve_complete

    if pivot is None or writable or not pivot_begun(pivot) or not read_pivot(pivot).complete:
        return replica_of(*whose).serve(point, pivot=pivot, rate=rate, writable=writable, **where)
    name, store = whose
    mine = br.relationship(name).definition.id if store is None else br.replica(store, name).base.record.relationship
    return serve_complete(pivot, str(mine), point_id=point, **where)


def _watch(begun: ServedPoint, *, as_json: bool) -> None:
    """Wait for its end; say how the pivot goes."""
    last = begun.pivot()
    if last is None:
        begun.wait()
        return
    said = ""
    with meter() as progress:
        if not last.complete:
            progress.start(f"copying point {last.point}", last.size)
            progress.advance(last.owned)
        ended = False
        while not ended:
            ended = begun.wait(POLL_S)
            now = begun.pivot() or last
            progress.advance(max(0, now.owned - last.owned))
            last = now
            if last.state != said and last.state in ("waiting", "damaged", "complete"):
                if last.complete:
                    progress.start("", 0)
                _say(last, as_json=as_json)
            said = last.state
    if not last.complete:
        _end_incomplete(last)


def _say(now: Pivot, *, as_json: bool) -> None:
    if as_json:
        import json

        click.echo(json.dumps({
            "pivot": now.state, "to": str(now.path), "point": now.point, "size": now.size, "owned": now.owned,
            "damaged": now.damaged, "error": now.error,
        }))  # fmt: skip
        return
    text = {
        "complete": "is complete; the replica is needed no more",
        "damaged": f"has all but {now.damaged} bytes, which are damaged in the replica; run verify and repair",
        "waiting": f"waits: {now.error}; it goes on by itself",
    }[now.state]
    click.echo(f"{now.path}: {text}", err=True)


def _end_incomplete(last: Pivot) -> None:
    """What to do next; damage is an error."""
    from blockreplica.errors import DamageError

    if last.state == "damaged":
        raise DamageError(f"{last.path}: not complete: {last.damaged} bytes of disk {last.disk} are damaged in point "
                          f"{last.point}; verify says where; repair, then run the command again")  # fmt: skip
    click.echo(f"{last.path}: not complete yet; the same command goes on. Pruning spares point {last.point} only while "
               "it runs: pin it if that is long", err=True)  # fmt: skip


def _tell(begun: ServedPoint, *, as_json: bool) -> None:
    if as_json:
        import json

        said = {"uri": begun.uri, "pid": begun.pid, "point": begun.point_id, "disk": begun.disk}
        click.echo(json.dumps(said))
    else:
        click.echo(begun.uri)
