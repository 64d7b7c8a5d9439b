"""Power cuts of a real file system under a point that is becoming an image: what was flushed is there, the rest is as
before or as written, and the same command goes on to equal bytes (invariants 3 and 12)."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from blockreplica.kernels import crc32c
from blockreplica.recovery.pivot import SECTOR, read_pivot, state_path
from blockreplica.recovery.serve import PLUGIN
from crash.loops import loop_mounted, lose_power, mount_again
from crash.scene import SIZE, Scene

pytestmark = [
    pytest.mark.skipif(not PLUGIN.exists(), reason="the plugin was not built: nbdkit-plugin-dev is missing"),
    pytest.mark.skipif(shutil.which("nbdkit") is None, reason="nbdkit is not installed"),
    pytest.mark.skipif(shutil.which("qemu-io") is None, reason="qemu-utils is not installed"),
]
SEED = int(os.environ.get("BLOCKREPLICA_SEED", "0")) or random.randrange(2**32)
LIVES = 4


@pytest.fixture(params=["ext4", "xfs"])
def disk(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """Where the image comes to be."""
    with loop_mounted(tmp_path, request.param, 512 << 20) as folder:
        yield folder


def lives(pid: int) -> bool:
    """Whether a process has not ended, be it ours or not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


class Serving:
    """`serve-point --pivot` in a process of its own."""

    def __init__(self, folder: Path, to: Path, rate: int) -> None:
        command = [sys.executable, "-m", "blockreplica", "serve-point", "vm", "--point", "1.2", "--json"]
        words = [*command, "--pivot", to, "--rate", rate, "--socket", folder / "p.sock"]
        (folder / "p.sock").unlink(missing_ok=True)
        self.process = subprocess.Popen([*map(str, words)], stdout=-1, stderr=-1, text=True)
        said = self.line()
        self.uri, self.pid = str(said["uri"]), int(said["pid"])

    def line(self) -> Any:
        """What it says next."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.process.communicate()[1]
        return json.loads(line)

    def kill(self) -> None:
        """Both at once; until the server is gone it holds its file system."""
        self.process.kill()
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        self.process.communicate()
        while lives(self.pid):
            time.sleep(0.01)


class Client:
    """qemu-io on a served disk, and what each of its bytes may be after a power cut."""

    def __init__(self, uri: str, content: bytes) -> None:
        line = ["qemu-io", "-t", "none", "-f", "raw", uri]
        self.process = subprocess.Popen(line, stdin=-1, stdout=-1, stderr=-2, bufsize=0)
        self.answer()
        self.versions = [np.frombuffer(content, np.uint8).copy()]

    def do(self, command: str) -> None:
        """Say it, and wait until it is done."""
        assert self.process.stdin is not None
        self.process.stdin.write(command.encode() + b"\n")
        assert b"failed" not in self.answer(), command

    def answer(self) -> bytes:
        """All that it says before it asks for more."""
        assert self.process.stdout is not None
        said = b""
        while not said.endswith(b"qemu-io> "):
            some = self.process.stdout.read(1)
            assert some, "qemu-io ended"
            said += some
        return said

    def write(self, rng: random.Random) -> None:
        """Anywhere, of any length."""
        size = len(self.versions[0])
        offset, byte = rng.randrange(size), rng.randrange(1, 256)
        length = min(rng.randrange(1, 60_000), size - offset)
        self.versions.append(self.versions[-1].copy())
        self.versions[-1][offset : offset + length] = byte
        self.do(f"write -P {byte} {offset} {length}")

    def read(self, rng: random.Random) -> None:
        """Anywhere: what is not copied yet is the point's, what is written is what was written."""
        now = self.versions[-1]
        offset = rng.randrange(len(now) - 512)
        self.process.stdin.write(f"read -v {offset} 512\n".encode())
        lines = re.findall(rb"^[0-9a-f]{8}:  ((?:[0-9a-f]{2} )+)", self.answer(), re.MULTILINE)
        got = bytes.fromhex(b"".join(lines).decode())
        assert got == now[offset : offset + 512].tobytes(), f"a read at {offset} gave what is not there"

    def flush(self) -> None:
        """From now on nothing older may come back."""
        self.do("flush")
        del self.versions[:-1]

    def kill(self) -> None:
        """Without a flush."""
        self.process.kill()
        self.process.communicate()


def live(folder: Path, to: Path, content: bytes, rng: random.Random) -> list[np.ndarray[Any, Any]]:
    """Serve, write, flush now and then, and lose power in the middle. Returns the contents that may be mixed then."""
    serving = Serving(folder, to, 400_000)
    client = Client(serving.uri, content)
    try:
        for _ in range(rng.randrange(4, 25)):
            if rng.random() < 0.25:
                client.flush()
            else:
                client.write(rng)
            client.read(rng)
        lose_power(to.parent)
    finally:
        client.kill()
        serving.kill()
    mount_again(to.parent)
    boot_again(to)
    return client.versions


def boot_again(to: Path) -> None:
    """The machine only seems to have lost its power, and is still the same boot: let another one have written that."""
    path = state_path(to)
    if not path.exists():
        return
    note = bytearray(path.read_bytes()[SECTOR : 2 * SECTOR])
    if len(note) < SECTOR or crc32c(bytes(note[:-4])) != int.from_bytes(note[-4:], "little"):
        return  # torn: it says nothing of a boot
    note[8:24] = b"another boot...."
    note[-4:] = crc32c(bytes(note[:-4])).to_bytes(4, "little")
    with path.open("r+b") as file:
        os.pwrite(file.fileno(), note, SECTOR)


def test_a_pivot_cut_off_from_power_keeps_what_was_flushed_and_goes_on_to_equal_bytes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], disk: Path
) -> None:
    scene = Scene(tmp_path, capsys, data=SIZE)  # the copier's first step is 1 MiB: what is behind it stays for long
    print("seed", SEED)
    rng, to, content, unfinished = random.Random(SEED), disk / "new.img", scene.models["1.2"], 0
    for _ in range(LIVES):
        versions = live(scene.folder, to, content, rng)
        found = finished(scene.folder, to) if rng.random() < 0.3 else read(scene.folder, to, len(content))
        got = np.frombuffer(found, np.uint8)
        allowed = np.zeros(len(got), np.bool_)
        for version in versions:
            allowed |= got == version
        assert allowed.all(), f"byte {np.flatnonzero(~allowed)[0]} is none of what it was or was to be"
        content = found
        unfinished += not read_pivot(to).complete
        if read_pivot(to).complete:
            to.unlink()
            to.with_name("new.img.pivot").unlink()
            content = scene.models["1.2"]
    if to.exists():
        assert finished(scene.folder, to) == content
    assert unfinished, "no power cut came before the end"


def read(folder: Path, to: Path, size: int) -> bytes:
    """What clients see after it; what has been read once is made to stay, by a flush."""
    serving = Serving(folder, to, 1)
    target = folder / "read.img"
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "raw", serving.uri, target], check=True)
    subprocess.run(["qemu-io", "-f", "raw", "-c", "flush", serving.uri], check=True, capture_output=True)
    serving.kill()
    return target.read_bytes()[:size]  # qemu-img ends with a whole sector


def finished(folder: Path, to: Path) -> bytes:
    """Go on to the end; the file alone then."""
    serving = Serving(folder, to, 0)
    assert serving.line()["pivot"] == "complete"
    serving.kill()
    return to.read_bytes()
