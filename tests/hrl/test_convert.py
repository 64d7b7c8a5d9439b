"""Converting: the same entries in the other version, right for a reader that shares nothing with ours."""

from __future__ import annotations

import random
from pathlib import Path
from uuid import uuid4

import numpy as np
import pytest

from blockreplica.errors import LogError, LogOpenError, NoSpaceError, RefusedError
from blockreplica.files import Files
from blockreplica.hrl import UNDO_LOG, LogReader, LogWriter, windows
from blockreplica.hrl.apply import apply
from blockreplica.hrl.convert import convert
from hrl.ms_hrl import LOG_ID, Entry, Forge, Group, read_strict
from hrl.tools import Fragile, Op, image_after, read, write


def ops_with_long_zeros(seed: int) -> list[Op]:
    noise = random.Random(seed)
    ops: list[Op] = [(noise.randrange(10**6), noise.randbytes(noise.randrange(1, 900))) for _ in range(300)]
    ops[::7] = [(noise.randrange(10**6), noise.randrange(1, 3 << 20)) for _ in ops[::7]]
    return ops


@pytest.mark.parametrize("window", [windows.WINDOW, 700])
def test_a_strict_log_has_zeros_as_data_and_is_right_for_another_reader(
    tmp_path: Path, window: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(windows.windows, "__defaults__", (window,))
    log, out, ops = tmp_path / "log.hrl", tmp_path / "strict.hrl", ops_with_long_zeros(1)
    write(log, [ops])
    done = convert(log, out, strict=True)
    found = read_strict(out)
    assert (done.version, done.entries, done.size) == ("2.0", len(found.entries), out.stat().st_size)
    assert found.blocks[0] == 4096
    assert max(len(data) for _, _, data in found.entries) <= 1 << 20
    size = 4 << 20
    assert image_after([(offset, data) for offset, _, data in found.entries], size) == image_after(ops, size)
    assert out.stat().st_blocks * 512 < log.stat().st_size + (1 << 20)
    with LogReader.open(out) as reader:
        assert reader.check().data == "checked"


def test_converted_twice_a_log_of_writes_is_the_same_log(tmp_path: Path) -> None:
    log, strict, back = tmp_path / "log.hrl", tmp_path / "strict.hrl", tmp_path / "back.hrl"
    ops = [(offset, data) for offset, data in ops_with_long_zeros(2) if isinstance(data, bytes)]
    previous, guid = uuid4(), uuid4()
    with LogWriter.create(log, unique_id=LOG_ID, previous_id=previous, data_write_guid=guid, timestamp=5) as writer:
        for index, (offset, data) in enumerate(ops):
            writer.append(offset, data, timestamp=index)
    convert(log, strict, strict=True)
    convert(strict, back, strict=False)
    assert read(back) == ops
    for path in (log, strict, back):
        with LogReader.open(path) as reader:
            header = reader.header
            assert (header.unique_id, header.previous_id, header.data_write_guid) == (LOG_ID, previous, guid)
            assert header.timestamp == 5
            stamps = np.concatenate([stamps for _, stamps in reader.records()])
            assert stamps.tolist() == list(range(len(ops)))


def test_zero_entries_stay_zero_entries_in_2_1(tmp_path: Path) -> None:
    log, out = tmp_path / "log.hrl", tmp_path / "out.hrl"
    ops: list[Op] = [(1, b"x"), (0, 1 << 30), (5, b"yz"), (2**40, 7)]
    write(log, [ops])
    convert(log, out, strict=False)
    assert read(out) == ops


@pytest.mark.parametrize("version", [0x00010000, 0x00020000])
def test_a_log_of_hyper_v_becomes_2_1(tmp_path: Path, version: int) -> None:
    log, out = tmp_path / "hyperv.hrl", tmp_path / "out.hrl"
    groups = [Group(), Group([Entry(512, b"a" * 512), Entry(0, b"b" * 512)], unused=b"stale")]
    log.write_bytes(Forge(groups, version=version, metadata_size=8192).build())
    convert(log, out, strict=False)
    assert read(out) == [(512, b"a" * 512), (0, b"b" * 512)]
    with LogReader.open(out) as reader:
        assert reader.check().data == "checked"
        assert reader.header.metadata_size == 4096


def test_an_image_gets_the_same_from_either(tmp_path: Path) -> None:
    log, strict, ops = tmp_path / "log.hrl", tmp_path / "strict.hrl", ops_with_long_zeros(3)
    write(log, [ops])
    convert(log, strict, strict=True)
    images = [tmp_path / "a.img", tmp_path / "b.img"]
    for path, source in zip(images, (log, strict), strict=True):
        path.write_bytes(b"\xff" * (5 << 20))
        apply(source, path)
    assert images[0].read_bytes() == images[1].read_bytes()


def test_what_exists_is_replaced_only_by_force(tmp_path: Path) -> None:
    log, out = tmp_path / "log.hrl", tmp_path / "out.hrl"
    write(log, [[(0, b"x")]])
    out.write_bytes(b"precious")
    with pytest.raises(RefusedError, match="--force"):
        convert(log, out, strict=True)
    assert out.read_bytes() == b"precious"
    convert(log, out, strict=True, force=True)
    assert read(out) == [(0, b"x")]
    convert(log, log, strict=True, force=True)
    assert read(log) == [(0, b"x")]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log.hrl", "out.hrl"]


def test_the_new_log_is_durable_before_it_has_its_name_and_the_name_after(tmp_path: Path) -> None:
    log, out, files = tmp_path / "log.hrl", tmp_path / "out.hrl", Fragile()
    write(log, [[(0, b"x")]])
    convert(log, out, strict=True, files=files)
    synced, renamed, last = files.calls[-3:]
    temporary = synced.removesuffix(": sync")
    assert temporary.startswith("out.hrl.")
    assert (synced, renamed, last) == (f"{temporary}: sync", f"rename {temporary} out.hrl", "sync folder")


def test_files_with_similar_names_are_left_alone(tmp_path: Path) -> None:
    log, other = tmp_path / "out.hrl.new", tmp_path / "out.hrl.tmp"
    write(log, [[(0, b"x")]])
    other.write_bytes(b"precious")
    convert(log, tmp_path / "out.hrl", strict=True)
    assert read(log) == read(tmp_path / "out.hrl") == [(0, b"x")]
    assert other.read_bytes() == b"precious"


def test_a_damaged_log_makes_no_file(tmp_path: Path) -> None:
    log, out = tmp_path / "log.hrl", tmp_path / "out.hrl"
    ends = write(log, [[(0, b"x")]])
    with log.open("r+b") as file:
        file.seek(ends[0])
        file.write(b"y")
    with pytest.raises(LogError):
        convert(log, out, strict=True)
    assert [path.name for path in tmp_path.iterdir()] == ["log.hrl"]


def test_an_unclosed_log_is_converted_only_when_salvage_is_asked_for(tmp_path: Path) -> None:
    log, out = tmp_path / "log.hrl", tmp_path / "out.hrl"
    write(log, [[(0, b"x")], [(1, b"y")]], close=False)
    with pytest.raises(LogOpenError):
        convert(log, out, strict=True)
    assert convert(log, out, strict=True, salvage=True).salvaged
    assert [(offset, data) for offset, _, data in read_strict(out).entries] == [(0, b"x"), (1, b"y")]


def test_an_undo_log_does_not_become_a_change_log(tmp_path: Path) -> None:
    log, out = tmp_path / "undo.hrl", tmp_path / "out.hrl"
    with LogWriter.create(log, unique_id=LOG_ID, file_type=UNDO_LOG) as writer:
        writer.append(0, b"what was there")
    with pytest.raises(RefusedError, match="undo log"):
        convert(log, out, strict=True)
    convert(log, out, strict=False)
    with LogReader.open(out) as reader:
        assert reader.header.file_type == UNDO_LOG


def test_more_zeros_than_can_be_carried_are_refused(tmp_path: Path) -> None:
    log, out = tmp_path / "log.hrl", tmp_path / "out.hrl"
    write(log, [[(0, 2**40)] for _ in range(257)], metadata_size=32768)
    with pytest.raises(RefusedError, match="too many"):
        convert(log, out, strict=True)
    assert not out.exists()


class NoRoomToRename(Files):
    def rename(self, source: Path, target: Path) -> None:
        raise NoSpaceError(f"{source} to {target}")


def test_a_failure_at_the_end_leaves_nothing_behind(tmp_path: Path) -> None:
    log, out = tmp_path / "log.hrl", tmp_path / "out.hrl"
    write(log, [[(0, b"x")]])
    with pytest.raises(NoSpaceError):
        convert(log, out, strict=True, files=NoRoomToRename())
    assert [path.name for path in tmp_path.iterdir()] == ["log.hrl"]
