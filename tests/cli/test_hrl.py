"""`blockreplica hrl`: what is printed where, and the exit codes."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from blockreplica.cli import main as program
from blockreplica.hrl import UNDO_LOG, LogWriter
from hrl.ms_hrl import LOG_ID, Entry, Forge, Group, read_strict
from hrl.tools import Op, write

OPS: list[Op] = [(4096, b"data"), (0, 1 << 20), (9, b"more")]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "log.hrl"
    with LogWriter.create(path, unique_id=LOG_ID, timestamp=0) as writer:
        writer.append(4096, b"data", timestamp=1)
        writer.append_zero(0, 1 << 20, timestamp=2)
        writer.append(9, b"more", timestamp=2**32 - 1)
    return path


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = program.run(["hrl", *map(str, arguments)])
    return code, *capsys.readouterr()


def test_show_prints_header_and_entries_as_json(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "show", log, "--json")
    assert (code, err) == (0, "")
    shown = json.loads(out)
    header = shown["header"]
    assert header["unique_id"] == str(LOG_ID)
    assert header["previous_unique_id"] == header["data_write_guid"] == "00000000-0000-0000-0000-000000000000"
    assert (header["version"], header["eol"], header["metadata_size"]) == ("2.1", log.stat().st_size, 4096)
    assert (header["total_entries"], header["file_type"], header["closed"]) == (3, 0, True)
    assert (header["creator_application"], header["timestamp"]) == ("brep", "2000-01-01T00:00:00.000000Z")
    assert shown["salvaged"] is None
    fields = [list(entry.values()) for entry in shown["entries"]]
    assert [list(entry) for entry in shown["entries"]] == [
        ["offset", "length", "operation", "timestamp", "log_offset"]
    ] * 3
    assert fields == [
        [4096, 4, "write", "2000-01-01T00:00:01.000000Z", 8192],
        [0, 1 << 20, "zero", "2000-01-01T00:00:02.000000Z", None],
        [9, 4, "write", "2136-02-07T06:28:15.000000Z", 8196],
    ]


def test_show_prints_a_line_an_entry(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "show", log)
    assert code == 0
    assert f"unique id: {LOG_ID}\n" in out
    lines = out.splitlines()[-4:]
    assert [line.split()[:3] for line in lines] == [
        ["OFFSET", "LENGTH", "WHAT"], ["4096", "4", "write"], ["0", "1048576", "zero"], ["9", "4", "write"],
    ]  # fmt: skip


def test_show_of_an_empty_log_is_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "empty.hrl"
    write(path, [])
    assert json.loads(run(capsys, "show", path, "--json")[1])["entries"] == []


def test_show_of_version_1_has_no_data_write_guid(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "old.hrl"
    path.write_bytes(Forge([Group([Entry(5, b"x")])], version=0x00010000).build())
    header = json.loads(run(capsys, "show", path, "--json")[1])["header"]
    assert (header["version"], header["data_write_guid"], header["creator_application"]) == ("1.0", None, "ct")


def test_show_lists_more_entries_than_one_batch(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "long.hrl"
    with LogWriter.create(path, unique_id=LOG_ID) as writer:
        for index in range(70000):
            writer.append(index, b"")
    offsets = [entry["offset"] for entry in json.loads(run(capsys, "show", path, "--json")[1])["entries"]]
    assert offsets == list(range(70000))


def test_show_of_an_unclosed_log_works_with_a_note(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "open.hrl"
    ends = write(path, [OPS[:1], OPS[1:]], close=False)
    os.truncate(path, ends[2] - 1)
    code, out, err = run(capsys, "show", path, "--json")
    assert code == 0
    assert "not closed" in err
    shown = json.loads(out)
    assert (shown["header"]["closed"], shown["header"]["eol"]) == (False, 0)
    assert shown["salvaged"] == {"entries": 1, "end": ends[1]}
    assert [entry["offset"] for entry in shown["entries"]] == [4096]


def test_show_of_a_damaged_log_needs_salvage(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.truncate(log, log.stat().st_size - 1)
    code, out, err = run(capsys, "show", log)
    assert (code, out) == (3, "")
    assert str(log) in err
    code, out, err = run(capsys, "show", log, "--salvage", "--json")
    assert code == 0
    assert "damaged" in err
    assert json.loads(out)["entries"] == []


def test_verify_of_a_right_log_is_0(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "verify", log)
    assert (code, err) == (0, "")
    assert "closed; 3 entries" in out
    assert "data: checked" in out
    assert json.loads(run(capsys, "verify", log, "--json")[1]) == {
        "version": "2.1", "blocks": 2, "entries": 3, "data_bytes": 8, "zero_bytes": 1 << 20, "writes_end": 4100,
        "data": "checked",
    }  # fmt: skip


def test_verify_says_that_data_of_hyper_v_is_unchecked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "hyperv.hrl"
    path.write_bytes(Forge([Group(), Group([Entry(0, b"x")])]).build())
    code, out, _ = run(capsys, "verify", path)
    assert code == 0
    assert "data: unchecked" in out


def test_verify_of_an_unclosed_log_is_3(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "open.hrl"
    write(path, [OPS], close=False)
    code, out, err = run(capsys, "verify", path)
    assert (code, out) == (3, "")
    assert "not closed" in err


def test_verify_of_a_flipped_bit_is_3(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = bytearray(log.read_bytes())
    raw[8192] ^= 4
    log.write_bytes(raw)
    code, out, err = run(capsys, "verify", log, "--json")
    assert (code, out) == (3, "")
    assert json.loads(err)["error"]["class"] == "LogError"


def test_apply_writes_the_image(tmp_path: Path, log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = tmp_path / "disk.img"
    image.write_bytes(b"\xff" * (2 << 20))
    code, out, _ = run(capsys, "apply", log, image, "--json")
    assert code == 0
    assert json.loads(out) == {
        "entries": 3, "bytes_written": 4, "bytes_zeroed": (1 << 20) - 4, "data": "checked", "salvaged": False
    }  # fmt: skip
    wanted = bytearray(b"\0" * (1 << 20) + b"\xff" * (1 << 20))
    wanted[9:13] = b"more"
    assert image.read_bytes() == wanted
    code, out, _ = run(capsys, "apply", log, image)
    assert code == 0
    assert "3 entries" in out


def test_apply_refuses_an_undo_log_with_6(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    undo, image = tmp_path / "undo.hrl", tmp_path / "disk.img"
    image.write_bytes(bytes(4096))
    with LogWriter.create(undo, unique_id=LOG_ID, file_type=UNDO_LOG) as writer:
        writer.append(0, b"old")
    code, out, err = run(capsys, "apply", undo, image)
    assert (code, out) == (6, "")
    assert "undo log" in err


def test_convert_strict_is_right_for_another_reader(
    tmp_path: Path, log: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out_path = tmp_path / "strict.hrl"
    code, out, _ = run(capsys, "convert", log, out_path, "--strict")
    assert code == 0
    assert "version 2.0, 3 entries" in out
    assert [(offset, data) for offset, _, data in read_strict(out_path).entries] == [
        (4096, b"data"), (0, bytes(1 << 20)), (9, b"more"),
    ]  # fmt: skip
    assert run(capsys, "verify", out_path)[0] == 0
    code, _, err = run(capsys, "convert", log, out_path)
    assert code == 6
    assert "--force" in err
    code, out, _ = run(capsys, "convert", log, out_path, "--force", "--json")
    assert (code, json.loads(out)["version"]) == (0, "2.1")
    assert out_path.read_bytes()[:16] == log.read_bytes()[:16]


@pytest.mark.parametrize("command", ["show", "verify", "apply", "convert"])
def test_help_of_each_command_says_what_it_does(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, command, "--help")
    assert code == 0
    assert "LOG" in out
    assert "--json" in out


def test_a_missing_log_is_5(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in (["show"], ["verify"]):
        assert run(capsys, *command, tmp_path / "none.hrl")[0] == 5
