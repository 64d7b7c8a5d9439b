"""The program's entry: finds the command, and turns every error into a message and an exit code.

The commands' modules are loaded when they are asked for, and none of them loads the library before it runs:
`--help` answers at once.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator, Sequence
from importlib import import_module
from typing import NoReturn

import click

from .. import errors

#: Command -> module of this package that has it under the same name, in the order of a disk's life.
COMMANDS = {
    "protect": "protect",
    "sync": "sync",
    "resync": "sync",
    "points": "points",
    "recover": "recover",
    "serve-point": "serve_point",
    "export": "export",
    "status": "status",
    "verify": "verify",
    "repair": "verify",
    "log": "log",
    "store": "store",
    "unprotect": "unprotect",
    "hrl": "hrl",
}

INTERRUPTED = 130
GARBAGE = 50_000  # objects that may become garbage before Python looks: loading modules makes many, and keeps them


class LazyGroup(click.Group):
    """A group that loads a command's module only when the command is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, in the order in which they are used."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, or None when there is none of that name."""
        if cmd_name not in COMMANDS:
            return None
        command = getattr(import_module(f"{__package__}.{COMMANDS[cmd_name]}"), cmd_name.replace("-", "_"))
        assert isinstance(command, click.Command)
        return command

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The exit codes, read off the tree of errors."""
        with formatter.section("Exit codes"):
            formatter.write_dl([(str(code), meaning) for code, meaning in exit_codes()])


def exit_codes() -> Iterator[tuple[int, str]]:
    """Every exit code and its meaning, ascending."""
    yield 0, "Done."
    yield 1, "An error that nobody foresaw."
    meanings: dict[int, str] = {}
    level: list[type[errors.BlockReplicaError]] = [errors.BlockReplicaError]
    while level:  # from the root down, so that a class speaks for those below it
        level = [child for parent in level for child in parent.__subclasses__()]
        for child in level:
            meaning = (child.__doc__ or "").partition("\n")[0].partition(". ")[0].rstrip(".") + "."
            meanings.setdefault(child.exit_code, meaning + (" Worth another try." if child.recoverable else ""))
    yield from sorted(meanings.items())
    yield INTERRUPTED, "Interrupted by Ctrl-C; the same command goes on where it was."


def print_version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    """What `--version` does; the metadata is slow to load, so only here."""
    if wanted:
        from importlib.metadata import version

        click.echo(f"blockreplica {version('blockreplica')}")
        ctx.exit()


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=print_version,
    help="Show the version and exit.",
)
def cli() -> None:
    """Replicate virtual disk images: a full copy once, then only what changed; recover any point in time.

    \b
    blockreplica protect vm.img --to /replicas --name vm    the first copy
    blockreplica sync vm                                    bring it up to date, keep a recovery point
    blockreplica recover vm --to restored.img               get the newest point back

    Every command takes --json. Data goes to stdout, progress and errors to stderr.
    """


def report(error: errors.BlockReplicaError, *, as_json: bool) -> int:
    """Say on stderr what went wrong; returns the exit code."""
    if as_json:
        say_json(type(error).__name__, str(error), error.exit_code, recoverable=error.recoverable)
    else:
        click.echo(f"error: {error}", err=True)
    return error.exit_code


def report_interruption(*, as_json: bool) -> int:
    """Say on stderr what Ctrl-C left; returns the exit code."""
    text = "interrupted; run the same command again and it goes on where it was"
    if as_json:
        say_json("KeyboardInterrupt", text, INTERRUPTED, recoverable=True)
    else:
        click.echo(text, err=True)
    return INTERRUPTED


def say_json(kind: str, message: str, exit_code: int, *, recoverable: bool) -> None:
    """An error as one JSON object on stderr."""
    import json

    what = {"class": kind, "message": message, "exit_code": exit_code, "recoverable": recoverable}
    click.echo(json.dumps({"error": what}), err=True)


def run(arguments: Sequence[str]) -> int:
    """Run one command; returns the exit code."""
    as_json = "--json" in arguments
    try:
        code = cli.main(list(arguments), prog_name="blockreplica", standalone_mode=False)
    except errors.BlockReplicaError as error:
        return report(error, as_json=as_json)
    except click.ClickException as error:
        if as_json:
            return report(errors.UsageError(error.format_message()), as_json=True)
        error.show()
        return error.exit_code
    except click.Abort:
        return report_interruption(as_json=as_json)
    except ImportError as error:  # kernels that were asked for by name and can't be had
        if not str(error).startswith("BLOCKREPLICA_"):
            raise
        return report(errors.UsageError(str(error)), as_json=as_json)
    except OSError as error:
        named = errors.from_os_error(error, error.filename or "blockreplica", "a system call")
        return report(named, as_json=as_json)
    return code if isinstance(code, int) else 0


def main() -> None:
    """What the installed program `blockreplica` calls."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # numpy's linear algebra, unused here, starts threads otherwise
    gc.set_threshold(GARBAGE)
    leave(run(sys.argv[1:]))


def leave(code: int) -> NoReturn:
    """End at once: what must be durable is, and to take numpy apart in good order costs 25 ms."""
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:  # nobody reads any more
        code = code or 1
    os._exit(code)
