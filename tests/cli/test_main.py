"""The program's frame: messages, exit codes, JSON errors, help."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import blockreplica
from blockreplica import errors
from blockreplica.cli import main as program


def every_error(parent: type[errors.BlockReplicaError] = errors.BlockReplicaError) -> list[type]:
    """All classes of the tree."""
    return [parent, *(found for child in parent.__subclasses__() for found in every_error(child))]


def fail_with(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """Make every command that asks for a relationship meet `error`."""

    def relationship(_: str) -> None:
        raise error

    monkeypatch.setitem(vars(blockreplica), "relationship", relationship)


@pytest.mark.parametrize("kind", every_error())
def test_an_error_becomes_a_message_on_stderr_and_its_exit_code(
    kind: type[errors.BlockReplicaError], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fail_with(monkeypatch, kind("what, where"))
    assert program.run(["sync", "vm"]) == kind.exit_code
    assert capsys.readouterr() == ("", "error: what, where\n")


@pytest.mark.parametrize("kind", every_error())
def test_an_error_is_json_when_json_is_wanted(
    kind: type[errors.BlockReplicaError], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fail_with(monkeypatch, kind("what, where"))
    assert program.run(["sync", "vm", "--json"]) == kind.exit_code
    out, err = capsys.readouterr()
    assert out == ""
    assert json.loads(err) == {
        "error": {
            "class": kind.__name__,
            "message": "what, where",
            "exit_code": kind.exit_code,
            "recoverable": kind.recoverable,
        }
    }


@pytest.mark.parametrize("kind", every_error())
def test_help_lists_the_exit_code_of_every_error(
    kind: type[errors.BlockReplicaError], capsys: pytest.CaptureFixture[str]
) -> None:
    assert program.run(["--help"]) == 0
    listed = capsys.readouterr().out.partition("Exit codes:\n")[2]
    assert str(kind.exit_code) in {line.split()[0] for line in listed.splitlines() if line.startswith("  ")}


@pytest.mark.parametrize("command", program.COMMANDS)
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert program.run([command, "--help"]) == 0
    assert capsys.readouterr().out.startswith(f"Usage: blockreplica {command} ")


def test_a_mistyped_option_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert program.run(["sync", "vm", "--depe"]) == 2
    assert "--depe" in capsys.readouterr().err
    assert program.run(["sync", "vm", "--depe", "--json"]) == 2
    assert json.loads(capsys.readouterr().err)["error"]["class"] == "UsageError"


def test_an_unknown_command_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert program.run(["snyc", "vm"]) == 2
    assert "snyc" in capsys.readouterr().err


@pytest.mark.parametrize("size", ["x", "-1", "64XiB", ""])
def test_a_size_that_is_none_is_refused_with_an_example(
    size: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["protect", str(tmp_path / "vm.img"), "--to", str(tmp_path), "--name", "vm", f"--block-size={size}"]
    assert program.run(arguments) == 2
    assert "such as 64KiB" in capsys.readouterr().err


def test_ctrl_c_ends_with_130_and_says_how_to_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fail_with(monkeypatch, KeyboardInterrupt())
    assert program.run(["sync", "vm"]) == 130
    out, err = capsys.readouterr()
    assert out == ""
    assert "goes on where it was" in err


@pytest.mark.parametrize(("number", "code"), [(errno.ENOSPC, 8), (errno.EIO, 8), (errno.ENOENT, 5), (errno.EACCES, 6)])
def test_a_system_error_that_nobody_translated_still_gets_its_class(
    number: int, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fail_with(monkeypatch, OSError(number, os.strerror(number), "/some/file"))
    assert program.run(["sync", "vm"]) == code
    assert "/some/file" in capsys.readouterr().err


def test_a_reader_that_has_enough_is_no_traceback() -> None:
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "blockreplica", "--help"]
    result = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write)
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("variable", ["BLOCKREPLICA_KERNELS", "BLOCKREPLICA_CPU"])
def test_kernels_that_cannot_be_had_are_a_usage_error_without_a_traceback(variable: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "blockreplica", "hrl", "verify", str(tmp_path / "a.hrl"), "--json"]
    result = subprocess.run(command, env={**os.environ, variable: "none"}, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert variable in json.loads(result.stderr)["error"]["message"]


def test_an_interruption_is_json_when_json_is_wanted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fail_with(monkeypatch, KeyboardInterrupt())
    assert program.run(["sync", "vm", "--json"]) == 130
    error = json.loads(capsys.readouterr().err)["error"]
    assert (error["class"], error["exit_code"], error["recoverable"]) == ("KeyboardInterrupt", 130, True)


def test_ctrl_c_while_the_program_is_being_loaded_ends_it_without_a_traceback() -> None:
    code = (
        "import sys, importlib.abc\n"
        "class Interrupting(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path, target=None):\n"
        "        if name == 'click': raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Interrupting())\n"
        "from blockreplica.__main__ import main\n"
        "main()\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (130, "")


@pytest.mark.parametrize("place", [".", "file/below"])
def test_a_folder_for_a_file_or_a_file_for_a_folder_is_said(
    place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert program.run(["hrl", "show", str(tmp_path / place)]) == 8
    assert "a folder stands where a file should" in capsys.readouterr().err
