"""`serve-point` as a user runs it: a process that says where the point is, and ends in order."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from blockreplica.errors import DamageError
from blockreplica.recovery.serve import PLUGIN
from processes import commands

from .commands import Ask, write

pytestmark = [
    pytest.mark.skipif(not PLUGIN.exists(), reason="the plugin was not built: nbdkit-plugin-dev is missing"),
    pytest.mark.skipif(shutil.which("nbdkit") is None, reason="nbdkit is not installed"),
    pytest.mark.skipif(shutil.which("qemu-io") is None, reason="qemu-utils is not installed"),
]
Serve = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def serve(protected: Path) -> Iterator[Serve]:
    """`blockreplica serve-point vm … --json` as a process of its own, of the protected image."""
    assert protected.exists()
    with commands() as start:
        yield lambda *words: start("serve-point", "vm", *words, "--json")


def said(process: subprocess.Popen[str]) -> Any:
    """Its next line."""
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise AssertionError(process.communicate()[1])
    return json.loads(line)


def ended(process: subprocess.Popen[str]) -> int:
    """Its exit code, once it was told to end."""
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    return process.returncode


def content(uri: str, target: Path) -> bytes:
    """All of a served disk."""
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "raw", uri, str(target)], check=True)
    return target.read_bytes()


def test_the_only_point_of_a_replica_is_served_until_sigterm(serve: Serve, protected: Path, tmp_path: Path) -> None:
    process = serve("--socket", tmp_path / "p.sock")
    line = said(process)
    assert content(line["uri"], tmp_path / "read.img") == protected.read_bytes()
    assert ended(process) == 0
    assert not (tmp_path / "p.sock").exists()


def test_the_first_point_is_served_as_it_was_while_it_is_the_only_one_and_after(
    ask: Ask, serve: Serve, protected: Path, tmp_path: Path
) -> None:
    before = protected.read_bytes()
    line = said(serve("--point", "1.1"))
    write(protected, (0, b"later" * 3000))
    assert ask("sync", "vm", "--json").json["action"] == "delta"
    assert content(line["uri"], tmp_path / "read.img") == before


def test_a_pivot_says_when_it_is_complete_and_the_store_may_go(serve: Serve, protected: Path, tmp_path: Path) -> None:
    to = tmp_path / "restored.img"
    process = serve("--pivot", to)
    uri = said(process)["uri"]
    subprocess.run(["qemu-io", "-f", "raw", "-c", "write -P 7 4096 10000", uri], check=True, capture_output=True)
    line = said(process)
    assert (line["pivot"], line["to"], line["damaged"]) == ("complete", str(to), 0)
    shutil.rmtree(tmp_path / "store")
    wanted = bytearray(protected.read_bytes())
    wanted[4096:14096] = bytes([7]) * 10000
    assert content(uri, tmp_path / "read.img") == wanted
    assert ended(process) == 0
    assert to.read_bytes() == wanted


def test_a_pivot_that_is_told_to_end_goes_on_by_the_same_command(serve: Serve, protected: Path, tmp_path: Path) -> None:
    to = tmp_path / "restored.img"
    process = serve("--pivot", to, "--rate", "64KiB")
    said(process)
    assert ended(process) == 0
    again = serve("--pivot", to)
    said(again)
    assert said(again)["pivot"] == "complete"
    assert ended(again) == 0
    assert to.read_bytes() == protected.read_bytes()


def test_a_pivot_of_a_damaged_point_says_so_and_is_an_error_at_its_end(serve: Serve, tmp_path: Path) -> None:
    disk = next((tmp_path / "store").rglob("disk.img"))
    with disk.open("r+b") as file:
        file.seek(70_000)
        file.write(b"rot")
    process = serve("--pivot", tmp_path / "restored.img")
    said(process)
    line = said(process)
    assert (line["pivot"], line["damaged"] > 0) == ("damaged", True)
    assert ended(process) == DamageError.exit_code
    assert b"rot" not in (tmp_path / "restored.img").read_bytes()
