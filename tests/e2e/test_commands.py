"""The commands, as a user gives them: from the first copy to the recovered file, in words and in JSON."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import pytest

import blockreplica as br

from .commands import SIZE, Ask, write


def test_from_the_first_copy_to_the_recovered_file(ask: Ask, image: Path, tmp_path: Path) -> None:
    write(image, (0, b"first"))
    first = ask("protect", image, "--to", tmp_path / "store", "--name", "vm")
    assert first.code == 0
    assert "initial" in first.out
    before = image.read_bytes()
    write(image, (100, b"x" * 5000), (2 << 20, b"y" * 5000))
    second = ask("sync", "vm", "--json").json
    assert second["action"] == "delta"
    after = image.read_bytes()
    points = ask("points", "vm", "--json").json
    assert [point["id"] for point in points][-1] == second["point"]
    for point, content in zip(points, (before, after), strict=True):
        target = tmp_path / f"{point['id']}.img"
        assert ask("recover", "vm", "--point", point["id"], "--to", target).code == 0
        assert target.read_bytes() == content
        assert target.stat().st_blocks * 512 < SIZE // 2, "holes were filled"


def test_sync_in_json_has_every_field_and_they_add_up(ask: Ask, protected: Path) -> None:
    write(protected, (0, b"z" * 8192))
    result = ask("sync", "vm", "--json").json
    assert result.keys() >= {
        "action", "reason", "point", "points", "kind", "bytes_scanned", "bytes_dirty", "bytes_sent", "bytes_skipped",
        "seconds", "warnings",
    }  # fmt: skip
    assert result["kind"] == "crash-consistent"
    assert result["reason"]
    assert result["bytes_dirty"] == 8192
    assert result["bytes_sent"] + result["bytes_skipped"] >= result["bytes_dirty"]


@pytest.mark.usefixtures("protected")
def test_a_sync_that_finds_nothing_changed_still_makes_a_point(ask: Ask) -> None:
    before = len(ask("points", "vm", "--json").json)
    assert ask("sync", "vm", "--json").json["bytes_dirty"] == 0
    assert len(ask("points", "vm", "--json").json) == before + 1


@pytest.mark.usefixtures("protected")
def test_points_in_json_are_oldest_first_with_times_in_utc(ask: Ask) -> None:
    ask("sync", "vm")
    points = ask("points", "vm", "--json").json
    assert [point["epoch"] for point in points] == sorted(point["epoch"] for point in points)
    for point in points:
        assert point["id"] == f"{point['generation']}.{point['epoch']}"
        assert point["kind"] == "crash-consistent"
        assert point["time"].endswith("Z")
        assert datetime.fromisoformat(point["time"]).tzinfo is not None
        assert point["disks"] == [{"index": 0, "name": "vm.img", "size": SIZE}]


@pytest.mark.usefixtures("protected")
def test_points_for_people_are_a_table(ask: Ask) -> None:
    lines = ask("points", "vm").out.splitlines()
    assert lines[0].split() == ["POINT", "TIME", "KIND", "DISKS"]
    assert "vm.img 4 MiB" in lines[1]


def test_resync_by_table_and_deep(ask: Ask, protected: Path, tmp_path: Path) -> None:
    with protected.open("r+b") as file:
        file.write(b"behind the tracker's back")
    by_table = ask("resync", "vm", "--json").json
    assert (by_table["action"], by_table["bytes_dirty"], by_table["bytes_sent"]) == ("resync", 65536, 4096)
    deep = ask("resync", "vm", "--deep", "--json").json
    assert (deep["action"], deep["bytes_dirty"]) == ("resync", 0)
    assert deep["bytes_scanned"] > by_table["bytes_scanned"]
    ask("recover", "vm", "--to", tmp_path / "out.img")
    assert (tmp_path / "out.img").read_bytes() == protected.read_bytes()


@pytest.mark.parametrize("size", ["4KiB", "4MiB"])
def test_the_block_size_changes_and_the_points_stay(ask: Ask, protected: Path, tmp_path: Path, size: str) -> None:
    before = protected.read_bytes()
    with protected.open("r+b") as file:
        file.write(b"behind the tracker's back")
    assert ask("resync", "vm", "--block-size", size, "--json").json["action"] == "resync"
    assert ask("status", "vm", "--json").json["block_size"] == {"4KiB": 4096, "4MiB": 4 << 20}[size]
    with protected.open("r+b") as file:
        file.write(b"another time")
    ask("sync", "vm")
    assert ask("verify", "vm", "--json").json["damage"] == []
    points = [point["id"] for point in ask("points", "vm", "--json").json]
    ask("recover", "vm", "--point", points[0], "--to", tmp_path / "old.img")
    assert (tmp_path / "old.img").read_bytes() == before
    for wrong in ("12KiB", "2KiB", "8MiB"):
        assert ask("resync", "vm", "--block-size", wrong).code == 2


def test_an_image_changed_behind_the_trackers_back_is_resynchronized_by_sync(ask: Ask, protected: Path) -> None:
    with protected.open("r+b") as file:
        file.write(b"behind the tracker's back")
    os.utime(protected, (protected.stat().st_atime, protected.stat().st_mtime + 10))
    result = ask("sync", "vm", "--json").json
    assert result["action"] == "resync"
    assert "changed while nothing tracked it" in result["reason"]


def test_an_image_that_nothing_tracks_is_scanned(ask: Ask, image: Path, tmp_path: Path) -> None:
    assert ask("protect", image, "--to", tmp_path / "store", "--name", "vm", "--json").json["action"] == "initial"
    with image.open("r+b") as file:
        file.write(b"new")
    result = ask("sync", "vm", "--json").json
    assert (result["action"], result["bytes_sent"]) == ("scan", 4096)


def test_a_damaged_log_costs_a_comparison_and_loses_nothing(ask: Ask, protected: Path, tmp_path: Path) -> None:
    write(protected, (1 << 20, b"q" * 9000))
    log = max(protected.parent.glob("vm.img.*.hrl"))
    content = bytearray(log.read_bytes())
    content[len(content) // 2] ^= 1
    log.write_bytes(content)
    assert ask("hrl", "verify", log).code == 3
    result = ask("sync", "vm", "--json").json
    assert result["action"] in {"partial-resync", "resync"}
    assert log.name in result["reason"]
    ask("recover", "vm", "--to", tmp_path / "out.img")
    assert (tmp_path / "out.img").read_bytes() == protected.read_bytes()


def test_status_of_all_and_of_one(ask: Ask, protected: Path) -> None:
    [one] = ask("status", "--json").json
    assert one["name"] == "vm"
    again = ask("status", "vm", "--json").json
    assert again["newest"]["id"] == one["newest"]["id"]
    assert again["disks"][0]["path"] == str(protected)
    assert again["disks"][0]["tracking"] == "closed"
    assert again["lag_seconds"] >= 0
    assert ask("status").out.splitlines()[1].split()[:2] == ["vm", "ok"]
    assert "closed" in ask("status", "vm").out


def test_status_while_a_tracker_is_open_says_what_is_dirty(ask: Ask, protected: Path) -> None:
    with br.track(protected) as tracked:
        tracked.pwrite(b"d" * 4096, 0)
        disk = ask("status", "vm", "--json").json["disks"][0]
    assert disk["tracking"] == "tracking"
    assert disk["dirty_bytes"] >= 4096


def test_nothing_protected_is_an_empty_list_and_a_hint(ask: Ask) -> None:
    assert ask("status", "--json").json == []
    assert "blockreplica protect" in ask("status").out


def test_verify_finds_a_flipped_bit_and_exits_with_4(ask: Ask, protected: Path, tmp_path: Path) -> None:
    assert ask("verify", "vm", "--json").json["damage"] == []
    [replica] = (tmp_path / "store").rglob("disk.img")
    with replica.open("r+b") as file:
        file.seek(1000)
        byte = file.read(1)[0]
        file.seek(1000)
        file.write(bytes([byte ^ 1]))
    found = ask("verify", "vm", "--json")
    assert found.code == 4
    assert [(each["disk"], each["offset"]) for each in found.json["damage"]] == [(0, 0)]
    assert json.loads(found.err)["error"]["class"] == "DamageError"
    refused = ask("recover", "vm", "--to", tmp_path / "out.img")
    assert refused.code == 4
    assert not (tmp_path / "out.img").exists()
    assert ask("resync", "vm", "--deep").code == 0
    assert ask("recover", "vm", "--to", tmp_path / "out.img").code == 0
    assert (tmp_path / "out.img").read_bytes() == protected.read_bytes()


def test_several_images_share_their_points(ask: Ask, image: Path, tmp_path: Path) -> None:
    second = image.with_name("data.img")
    second.write_bytes(bytes(1 << 20) + b"data")
    write(image, (0, b"1"))
    write(second, (0, b"2"))
    ask("protect", image, second, "--to", tmp_path / "store", "--name", "both")
    [point] = ask("points", "both", "--json").json
    assert [(disk["index"], disk["name"]) for disk in point["disks"]] == [(0, "vm.img"), (1, "data.img")]
    target = tmp_path / "out.img"
    unsaid = ask("recover", "both", "--to", target)
    assert unsaid.code == 2
    assert "--disk" in unsaid.err
    assert ask("recover", "both", "--disk", 1, "--to", target).code == 0
    assert target.read_bytes() == second.read_bytes()
    assert ask("recover", "both", "--disk", 2, "--to", tmp_path / "none.img").code in {2, 5}


def test_a_file_that_exists_is_replaced_only_by_force(ask: Ask, protected: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.img"
    target.write_bytes(b"precious")
    assert ask("recover", "vm", "--to", target).code == 6
    assert target.read_bytes() == b"precious"
    assert ask("recover", "vm", "--to", target, "--force").code == 0
    assert target.read_bytes() == protected.read_bytes()


def test_keep_bounds_the_points(ask: Ask, image: Path, tmp_path: Path) -> None:
    write(image, (0, b"1"))
    ask("protect", image, "--to", tmp_path / "store", "--name", "vm", "--keep", 3)
    for number in range(5):
        write(image, (number * 4096, b"more"))
        newest = ask("sync", "vm", "--json").json["point"]
    points = ask("points", "vm", "--json").json
    assert len(points) == 3
    assert points[-1]["id"] == newest


def test_a_seed_saves_what_it_holds(ask: Ask, image: Path, tmp_path: Path) -> None:
    seed = tmp_path / "seed.img"
    seed.write_bytes(image.read_bytes())
    with image.open("r+b") as file:
        file.write(b"newer than the seed")
    result = ask("protect", image, "--to", tmp_path / "store", "--name", "vm", "--seed", seed, "--json").json
    assert (result["action"], result["bytes_sent"]) == ("initial", 4096)
    ask("recover", "vm", "--to", tmp_path / "out.img")
    assert (tmp_path / "out.img").read_bytes() == image.read_bytes()


def test_an_image_that_grew_and_one_that_shrank_replicate_on(ask: Ask, protected: Path, tmp_path: Path) -> None:
    contents = {ask("points", "vm", "--json").json[0]["id"]: protected.read_bytes()}
    for size in (SIZE + 123_456, SIZE - 654_321):
        os.truncate(protected, size)
        contents[ask("sync", "vm", "--json").json["point"]] = protected.read_bytes()
    for point, content in contents.items():
        target = tmp_path / f"{point}.img"
        assert ask("recover", "vm", "--point", point, "--to", target).code == 0
        assert target.read_bytes() == content


@pytest.mark.usefixtures("protected")
def test_unprotect_keeps_the_replica_and_forgets_the_name(ask: Ask, tmp_path: Path) -> None:
    assert ask("unprotect", "vm", "--json").json == {"name": "vm", "replica": str(tmp_path / "store")}
    assert list((tmp_path / "store").rglob("disk.img"))
    assert ask("sync", "vm").code == 5


def test_points_outlive_host_catalog_and_relationship(ask: Ask, protected: Path, tmp_path: Path) -> None:
    """Who has a store and nothing else reads all its points, also where the store was moved."""
    content = protected.read_bytes()
    ask("sync", "vm")
    listed = ask("points", "vm", "--json").json
    store = Path(ask("status", "vm", "--json").json["store"])
    ask("unprotect", "vm")
    moved = store.rename(tmp_path / "moved")
    assert ask("points", "vm").code == 5
    assert ask("points", "vm", "--store", moved, "--json").json == listed
    assert ask("points", "--store", moved, "vm", "--json").json == listed
    done = ask("recover", "vm", "--store", moved, "--point", "1.1", "--to", tmp_path / "out.img", "--json")
    assert done.json["point"] == "1.1"
    assert (tmp_path / "out.img").read_bytes() == content
    assert br.replica(moved, "vm").read("1.1", 0, 4096) == content[:4096]
    for place, name, code in ((moved, "other", 5), (store, "vm", 6)):
        assert ask("recover", name, "--store", place, "--to", tmp_path / "no.img").code == code


@pytest.mark.usefixtures("protected")
def test_unprotect_deletes_the_replica_when_told_to(ask: Ask, tmp_path: Path) -> None:
    assert ask("unprotect", "vm", "--delete-replica", "--json").json == {"name": "vm", "replica": None}
    assert not list((tmp_path / "store").rglob("disk.img"))


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("sync", "none"), 5, "none"),
        (("points", "none"), 5, "none"),
        (("recover", "vm", "--point", "1.99", "--to", "{tmp}/x"), 5, "1.99"),
        (("recover", "vm", "--point", "../../etc", "--to", "{tmp}/x"), 5, "etc"),
        (("recover", "vm", "--to", "{tmp}/missing/x"), 6, "missing"),
        (("protect", "{tmp}/missing.img", "--to", "{tmp}/s", "--name", "b"), 5, "missing.img"),
        (("protect", "{tmp}", "--to", "{tmp}/s", "--name", "b"), 6, "disk image"),
        (("protect", "{image}", "--to", "{tmp}/store", "--name", "vm"), 6, "already"),
        (("protect", "{image}", "--to", "{tmp}/primary", "--name", "b"), 6, "inside the store"),
        (("protect", "{image}", "--to", "{tmp}/s", "--name", "../b"), 2, "name"),
        (("protect", "{tmp}/primary/vm.img.cursors", "--to", "{image}/s", "--name", "b"), 6, "is no folder"),
        (("protect", "{image}", "--to", "{tmp}/s", "--name", "b", "--block-size", "5000"), 2, "block"),
        (("protect", "{image}", "{image}", "--to", "{tmp}/s", "--name", "b"), 2, "twice"),
        (("hrl", "verify", "{tmp}/missing.hrl"), 5, "missing.hrl"),
        (("hrl", "verify", "{image}"), 3, "vm.img"),
    ],
)
def test_a_mistake_gets_its_exit_code_and_names_what_is_wrong(
    arguments: tuple[str, ...], code: int, words: str, ask: Ask, protected: Path, tmp_path: Path
) -> None:
    answer = ask(*(argument.format(tmp=tmp_path, image=protected) for argument in arguments))
    assert (answer.code, answer.out) == (code, "")
    assert words in answer.err.splitlines()[-1]
    assert answer.err.splitlines()[-1].startswith("error: ")
    assert ask("verify", "vm").code == 0


def test_a_sync_does_not_load_what_it_does_not_need(protected: Path) -> None:
    write(protected, (0, b"z" * 8192))
    code = (
        "import sys; from blockreplica.cli.main import run; run(['sync', 'vm', '--json']); "
        "print([name for name in ('numpy.ma', 'rich') if name in sys.modules], file=sys.stderr)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(result.stdout)["action"] == "delta"
    assert result.stderr.splitlines()[-1] == "[]"


def test_a_second_sync_at_the_same_time_is_told_to_wait(ask: Ask, protected: Path) -> None:
    write(protected, (0, b"new"))
    with br.relationship("vm").replica.base.locked():
        answer = ask("sync", "vm", "--json")
    assert answer.code == 7
    assert json.loads(answer.err)["error"]["recoverable"] is True
    assert str(os.getpid()) in answer.err
    assert ask("sync", "vm").code == 0


def test_a_folder_of_somebody_else_is_no_store(ask: Ask, image: Path, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "cat.jpg").write_bytes(b"meow")
    answer = ask("protect", image, "--to", folder, "--name", "vm")
    assert answer.code == 6
    assert str(folder) in answer.err
    assert os.listdir(folder) == ["cat.jpg"]
    assert ask("status", "--json").json == []


def test_a_replica_of_somebody_else_is_not_synced_to(ask: Ask, protected: Path, tmp_path: Path) -> None:
    other = protected.with_name("other.img")
    other.write_bytes(b"other" * 1000)
    assert ask("protect", other, "--to", tmp_path / "elsewhere", "--name", "vm2").code == 0
    (tmp_path / "store" / "vm").rename(tmp_path / "away")
    (tmp_path / "elsewhere" / "vm2").rename(tmp_path / "store" / "vm")
    answer = ask("sync", "vm")
    assert answer.code == 6
    assert "another relationship" in answer.err


def test_a_missing_image_is_said_and_hurts_no_point(ask: Ask, protected: Path, tmp_path: Path) -> None:
    content = protected.read_bytes()
    protected.rename(tmp_path / "moved.img")
    answer = ask("sync", "vm")
    assert answer.code == 5
    assert "vm.img" in answer.err
    assert ask("status", "vm", "--json").json["state"] == "image missing"
    assert ask("recover", "vm", "--to", tmp_path / "out.img").code == 0
    assert (tmp_path / "out.img").read_bytes() == content
