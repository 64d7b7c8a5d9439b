"""What a recovery waits for: that all of it is on the disk, unless somebody does without."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from blockreplica.cli.main import run
from blockreplica.errors import BusyError, RefusedError, UsageError
from blockreplica.files import FILES, File, Files
from blockreplica.recovery.convert import PARTIAL
from blockreplica.recovery.recover import recover
from blockreplica.recovery.serve import PLUGIN
from blockreplica.stores import DirectoryStore
from crash.recording import RecordingFiles
from replication.world import World, write


@pytest.fixture
def world(tmp_path: Path) -> World:
    """Two points."""
    made = World.make(tmp_path, sizes=(1_000_000,))
    write(made.image, (0, b"begin"))
    made.protect()
    write(made.image, (300_000, b"second" * 1000))
    made.sync()
    return made


@pytest.mark.parametrize("durable", [True, False])
def test_only_a_recovery_that_need_not_be_durable_waits_for_no_fsync(world: World, *, durable: bool) -> None:
    files = RecordingFiles()
    replica = DirectoryStore(world.store).replica("vm")
    recover(replica, "1.2", world.folder / "out.img", durable=durable, files=files)
    assert (world.folder / "out.img").read_bytes() == world.models["1.2"][0]
    assert {op.what for op in files.ops} & {"sync", "syncdir"} == ({"sync", "syncdir"} if durable else set())
    assert files.ops[-1].what == ("syncdir" if durable else "rename")


@pytest.mark.parametrize("how", [{"force": True}, {"in_place": True}])
def test_what_is_there_already_is_let_go_of_only_for_what_is_durable(world: World, how: dict[str, bool]) -> None:
    (world.folder / "out.img").write_bytes(b"mine")
    with pytest.raises(UsageError, match="no-fsync"):
        world.vm.replica.recover(None, world.folder / "out.img", durable=False, **how)
    assert (world.folder / "out.img").read_bytes() == b"mine"
    assert not [name for name in os.listdir(world.folder) if "partial" in name]


def test_the_command_says_what_is_not_on_the_disk_for_certain(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    for options, durable in (([], True), (["--no-fsync"], False)):
        out = world.folder / f"out-{durable}.img"
        assert run(["recover", "vm", "--store", str(world.store), "--to", str(out), "--json", *options]) == 0
        assert json.loads(capsys.readouterr().out)["durable"] is durable
        assert out.read_bytes() == world.models["1.2"][0]


class Meddling(Files):
    """While a recovery writes, somebody else does something."""

    def __init__(self, what: Callable[[], object]) -> None:
        self.what = what

    def is_at(self, file: File, path: Path) -> bool:
        if path.name.endswith(PARTIAL) and file.size():
            self.what()
        return super().is_at(file, path)


@pytest.mark.parametrize("durable", [True, False])
@pytest.mark.parametrize("image_format", ["raw", "qcow2"])
def test_a_file_that_came_to_be_meanwhile_stays(world: World, image_format: str, *, durable: bool) -> None:
    if image_format != "raw" and (shutil.which("qemu-img") is None or not PLUGIN.exists()):
        pytest.skip("qemu-img or the plugin is missing")
    out = world.folder / "out.img"
    files = Meddling(lambda: out.write_bytes(b"precious"))
    with pytest.raises(RefusedError, match="meanwhile"):
        recover(DirectoryStore(world.store).replica("vm"), "1.1", out, image_format=image_format, durable=durable,
                files=files)  # fmt: skip
    assert out.read_bytes() == b"precious"


@pytest.mark.parametrize("image_format", ["raw", "qcow2"])
def test_two_recoveries_to_one_file_are_one_too_many_in_every_format(world: World, image_format: str) -> None:
    if image_format != "raw" and (shutil.which("qemu-img") is None or not PLUGIN.exists()):
        pytest.skip("qemu-img or the plugin is missing")
    out = world.folder / "out.img"
    with FILES.open(out.with_name(out.name + PARTIAL), write=True, create=True) as theirs:
        theirs.pwrite(b"theirs", 0)
        assert theirs.lock()
        with pytest.raises(BusyError):
            recover(DirectoryStore(world.store).replica("vm"), "1.1", out, image_format=image_format)
        assert FILES.is_at(theirs, theirs.path)
        assert theirs.pread(6, 0) == b"theirs"


@pytest.mark.parametrize("image_format", ["raw", "qcow2"])
def test_what_somebody_put_in_the_place_of_a_recovery_is_not_removed(world: World, image_format: str) -> None:
    if image_format != "raw" and (shutil.which("qemu-img") is None or not PLUGIN.exists()):
        pytest.skip("qemu-img or the plugin is missing")
    out = world.folder / "out.img"
    partial = out.with_name(out.name + PARTIAL)

    def replace() -> None:
        partial.unlink()
        partial.write_bytes(b"theirs")

    with pytest.raises(BusyError, match="another file"):
        recover(DirectoryStore(world.store).replica("vm"), "1.1", out, image_format=image_format,
                files=Meddling(replace))  # fmt: skip
    assert partial.read_bytes() == b"theirs"
