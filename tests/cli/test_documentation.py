"""docs/cli.md speaks of the commands and options that there are, and of no others."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest

from blockreplica.cli import main as program

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "cli.md").read_text()


def leaves() -> dict[str, click.Command]:
    """Every command, those of groups too, by its words."""
    context = click.Context(program.cli)
    found: dict[str, click.Command] = {}
    for name in program.COMMANDS:
        command = program.cli.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            found |= {f"{name} {child}": command.commands[child] for child in command.commands}
        else:
            found[name] = command
    return found


def synopsis(name: str) -> str:
    """The last line of the page that shows how the command is called."""
    lines = [line for line in TEXT.splitlines() if line.startswith(f"    blockreplica {name} ")]
    assert lines, f"docs/cli.md does not show how {name} is called"
    return lines[-1]


@pytest.mark.parametrize("name", leaves())
def test_the_page_shows_every_option_of_a_command_and_no_other(name: str) -> None:
    words = [word for parameter in leaves()[name].params for word in (*parameter.opts, *parameter.secondary_opts)]
    options = {word for word in words if word.startswith("--")}
    assert set(re.findall(r"--[a-z][a-z-]*", synopsis(name))) == options - {"--help"}


def test_the_page_lists_every_exit_code() -> None:
    listed = {int(code) for code in re.findall(r"^\| (\d+) \|", TEXT, re.MULTILINE)}
    assert listed == {code for code, _ in program.exit_codes()}


def test_every_relative_link_of_the_documentation_leads_somewhere() -> None:
    root = Path(__file__).resolve().parents[2]
    pages = [*root.glob("*.md"), *(root / "docs").glob("*.md")]
    assert len(pages) > 4
    for page in pages:
        for link in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
            assert (page.parent / link).exists(), f"{page.name} links to {link}"
