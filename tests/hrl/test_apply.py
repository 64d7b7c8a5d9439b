"""Applying a log: the image becomes what the entries say in their order, or stays as it was."""

from __future__ import annotations

import os
import random
import subprocess
from pathlib import Path

import pytest

from blockreplica import kernels
from blockreplica.errors import BusyError, LogError, LogOpenError, NotFoundError, RefusedError, StorageError
from blockreplica.files import FILES
from blockreplica.hrl import UNDO_LOG, LogWriter, windows
from blockreplica.hrl.apply import Applied, apply
from blockreplica.tracking import track
from hrl.ms_hrl import LOG_ID, Entry, Forge, Group
from hrl.tools import Fragile, Op, flat, image_after, write

SIZE = 1 << 20


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(random.Random(0).randbytes(SIZE))
    return path


def many_ops(seed: int, count: int = 200) -> list[Op]:
    """Overlapping writes and zeros, short and long, aligned and not."""
    noise = random.Random(seed)
    ops: list[Op] = []
    for _ in range(count):
        offset = noise.randrange(SIZE)
        length = min(noise.choice([1, 511, 4096, 70000]), SIZE - offset)
        ops.append((offset, length) if noise.random() < 0.3 else (offset, noise.randbytes(length)))
    return ops


@pytest.mark.parametrize("seed", range(5))
def test_the_image_becomes_what_the_entries_say(
    tmp_path: Path, image: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    print("seed", seed)
    log, ops, before = tmp_path / "log.hrl", many_ops(seed), image.read_bytes()
    write(log, [ops[:90], ops[90:]])
    if seed % 2:
        monkeypatch.setattr(windows.windows, "__defaults__", (5000,))
    done = apply(log, image)
    assert image.read_bytes() == image_after(ops, SIZE, before)
    assert (done.entries, done.data, done.salvaged) == (len(ops), "checked", False)
    apply(log, image)
    assert image.read_bytes() == image_after(ops, SIZE, before)


def test_a_log_of_hyper_v_is_applied(tmp_path: Path, image: Path) -> None:
    log, before = tmp_path / "hyperv.hrl", image.read_bytes()
    entries = [Entry(4096 * (i % 5), os.urandom(4096)) for i in range(9)]
    log.write_bytes(Forge([Group(), Group(entries, unused=b"stale")]).build())
    assert apply(log, image).data == "unchecked"
    assert image.read_bytes() == image_after([(entry.offset, entry.data) for entry in entries], SIZE, before)


def test_zero_entries_become_holes(tmp_path: Path, image: Path) -> None:
    log = tmp_path / "log.hrl"
    write(log, [[(0, SIZE)]])
    assert apply(log, image) == Applied(1, 0, SIZE, "checked", False)
    assert image.read_bytes() == bytes(SIZE)
    assert image.stat().st_blocks == 0


def test_a_write_beyond_the_image_is_refused_before_anything_is_written(tmp_path: Path, image: Path) -> None:
    log, before = tmp_path / "log.hrl", image.read_bytes()
    write(log, [[(0, b"inside")], [(SIZE - 1, b"xy")]])
    with pytest.raises(RefusedError, match=str(SIZE + 1)):
        apply(log, image)
    assert image.read_bytes() == before


def test_a_zero_entry_beyond_a_shrunk_image_is_true_already(tmp_path: Path, image: Path) -> None:
    log, before = tmp_path / "log.hrl", image.read_bytes()
    write(log, [[(SIZE - 10, 10**6), (SIZE, 1 << 40), (2**62, 5)]])
    assert apply(log, image).bytes_zeroed == 10
    assert image.read_bytes() == before[:-10] + bytes(10)


def test_a_damaged_log_leaves_the_image_as_it_was(tmp_path: Path, image: Path) -> None:
    log, before = tmp_path / "log.hrl", image.read_bytes()
    ops = many_ops(9)
    ends = write(log, [ops[:100], ops[100:]])
    with log.open("r+b") as file:
        file.seek(ends[2] - 512 - 1)
        file.write(bytes([file.read(1)[0] ^ 1]) if file.seek(ends[2] - 513) else b"")
    with pytest.raises(LogError):
        apply(log, image)
    assert image.read_bytes() == before


def test_an_unclosed_log_is_applied_only_when_salvage_is_asked_for(tmp_path: Path, image: Path) -> None:
    log, before = tmp_path / "log.hrl", image.read_bytes()
    groups: list[list[Op]] = [[(0, b"one")], [(9, b"two")], [(20, b"three")]]
    ends = write(log, groups, close=False)
    os.truncate(log, ends[3] - 1)
    with pytest.raises(LogOpenError):
        apply(log, image)
    assert image.read_bytes() == before
    done = apply(log, image, salvage=True)
    assert (done.entries, done.salvaged) == (2, True)
    assert image.read_bytes() == image_after(flat(groups[:2]), SIZE, before)


def test_what_was_applied_is_durable(tmp_path: Path, image: Path) -> None:
    log, files = tmp_path / "log.hrl", Fragile()
    write(log, [[(0, b"x"), (4096, 4096)]])
    apply(log, image, files=files)
    assert files.calls == ["disk.img: write extents", "disk.img: zero", "disk.img: sync"]
    files.fail.add("sync")
    with pytest.raises(StorageError):
        apply(log, image, files=files)


def test_an_undo_log_is_refused(tmp_path: Path, image: Path) -> None:
    log, before = tmp_path / "undo.hrl", image.read_bytes()
    with LogWriter.create(log, unique_id=LOG_ID, file_type=UNDO_LOG) as writer:
        writer.append(0, b"what was there")
    with pytest.raises(RefusedError, match="undo log"):
        apply(log, image)
    assert image.read_bytes() == before


def test_a_log_is_not_applied_to_itself(tmp_path: Path) -> None:
    log, link = tmp_path / "log.hrl", tmp_path / "link"
    write(log, [[(0, b"x")]])
    link.symlink_to(log)
    before = log.read_bytes()
    with pytest.raises(RefusedError, match="same file"):
        apply(log, link)
    assert log.read_bytes() == before


def test_a_locked_image_is_busy(tmp_path: Path, image: Path) -> None:
    log = tmp_path / "log.hrl"
    write(log, [[(0, b"x")]])
    with FILES.open(image) as other:
        assert other.lock()
        with pytest.raises(BusyError):
            apply(log, image)


def test_an_image_that_is_tracked_is_busy(tmp_path: Path, image: Path) -> None:
    log = tmp_path / "log.hrl"
    write(log, [[(0, b"x")]])
    with track(image), pytest.raises(BusyError):
        apply(log, image)
    apply(log, image)
    assert image.read_bytes()[:1] == b"x"


def test_an_image_that_qemu_has_open_is_busy(tmp_path: Path, image: Path) -> None:
    log = tmp_path / "log.hrl"
    write(log, [[(0, b"x")]])
    command = ["qemu-io", "-f", "raw", str(image)]
    shell = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert shell.stdin is not None
    assert shell.stdout is not None
    shell.stdin.write(b"length\n")
    shell.stdin.flush()
    assert b"1 MiB" in shell.stdout.readline()  # by now it has its locks
    with pytest.raises(BusyError):
        apply(log, image)
    shell.communicate(b"quit\n")
    apply(log, image)


def test_a_missing_image_is_not_made(tmp_path: Path) -> None:
    log = tmp_path / "log.hrl"
    write(log, [[(0, b"x")]])
    with pytest.raises(NotFoundError):
        apply(log, tmp_path / "none.img")
    assert not (tmp_path / "none.img").exists()


def test_a_log_that_is_cut_while_it_is_applied_does_not_become_zeros(
    tmp_path: Path, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, before = tmp_path / "log.hrl", image.read_bytes()
    write(log, [[(0, b"data" * 100)]])
    coalesce = kernels.coalesce

    def cut(entries: object, out: object) -> int:
        os.truncate(log, 5000)
        return coalesce(entries, out)  # type: ignore[arg-type]

    monkeypatch.setattr(kernels, "coalesce", cut)
    with pytest.raises(LogError, match="cut short"):
        apply(log, image)
    assert image.read_bytes() == before
