"""An export begins, ends, dies and begins again: rules 5 and 6; nothing answered is lost, nothing is left behind."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import blockreplica as br
from blockreplica.errors import BusyError, NotFoundError, RefusedError, StorageError, UsageError
from blockreplica.tracking import ImageSource
from blockreplica.tracking import export as exports
from processes import commands
from tracking.helpers import beside

from .conftest import SIZE
from .tools import content_by_logs, need, qemu_io, run

Serve = Callable[..., br.Export]


@pytest.fixture
def command() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """`blockreplica ...` as a process of its own."""
    with commands() as start:
        yield start


@contextlib.contextmanager
def connected(uri: str) -> Iterator[None]:
    """A client that has written once, and stays."""
    need("qemu-io")
    client = subprocess.Popen(["qemu-io", "-f", "raw", uri], stdin=-1, stdout=-1, stderr=-1, text=True)
    try:
        assert client.stdin is not None
        assert client.stdout is not None
        client.stdin.write("write -P 3 0 64k\n")
        client.stdin.flush()
        assert "wrote" in client.stdout.readline()
        yield
    finally:
        client.kill()
        client.communicate()


def first_line(process: subprocess.Popen[str]) -> dict[str, Any]:
    assert process.stdout is not None
    return dict(json.loads(process.stdout.readline()))


def test_a_write_is_in_image_and_log_and_the_end_seals_it(image: Path, serve: Serve) -> None:
    with serve(image) as served:
        assert beside(image) == {".hrl", ".tracking", ".control", ".nbd"}
        qemu_io(served.uri, "write -P 7 4k 8k")
        status = served.status()
        assert (status.state, status.pid, status.writes) == ("tracking", served.pid, 1)
    assert beside(image) == {".000001.hrl", ".000001.dirty", ".tracking"}
    assert content_by_logs(image, SIZE, 1) == image.read_bytes()
    assert image.read_bytes()[4096:12288] == b"\7" * 8192
    assert ImageSource.open(image).state == "closed"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_command_serves_until_it_is_told_to_end_and_ends_in_order(
    image: Path, command: Callable[..., subprocess.Popen[str]], number: int
) -> None:
    process = command("export", image, "--socket", image.with_name("s"), "--json")
    told = first_line(process)
    qemu_io(told["uri"], "write -P 7 4k 8k")
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (0, "", "")
    assert not image.with_name("s").exists()
    assert beside(image) == {".000001.hrl", ".000001.dirty", ".tracking"} | set()
    assert ImageSource.open(image).state == "closed"


def test_a_connection_has_the_threads_that_were_asked_for(image: Path, serve: Serve) -> None:
    def added(threads: int) -> int:
        with serve(image, threads=threads) as served, connected(served.uri):
            return len(os.listdir(f"/proc/{served.pid}/task"))

    assert added(9) - added(3) == 6


@pytest.mark.parametrize("threads", [0, -1, 257])
def test_a_senseless_number_of_threads_is_refused(image: Path, threads: int) -> None:
    with pytest.raises(UsageError, match="wanted 1 to 256"):
        br.export(image, threads=threads)
    assert beside(image) == set()


def test_a_sigterm_to_the_server_itself_seals_the_log_while_a_client_is_connected(image: Path, serve: Serve) -> None:
    need("qemu-io")
    served = serve(image)
    with connected(served.uri):
        os.kill(served.pid, signal.SIGTERM)
        served.wait()
    assert content_by_logs(image, SIZE, 1) == image.read_bytes()
    assert not image.with_name("vm.img.nbd").exists()


def test_after_kill_9_it_starts_again_and_a_sync_has_every_answered_write(
    image: Path, tmp_path: Path, serve: Serve
) -> None:
    served = serve(image)
    vm = br.protect(image, tmp_path / "store", name="vm")
    qemu_io(served.uri, "write -P 9 1M 3M")
    os.kill(served.pid, signal.SIGKILL)
    with pytest.raises(StorageError, match="-9"):
        served.wait()
    with pytest.raises(StorageError, match="has ended"):
        served.status()
    assert image.with_name("vm.img.nbd").exists()
    again = serve(image)
    assert again.status().found == "died"
    qemu_io(again.uri, "write -P 8 8M 1M")
    assert vm.sync().action in ("delta", "partial-resync")
    again.close()
    vm.replica.recover(None, tmp_path / "out.img")
    assert (tmp_path / "out.img").read_bytes() == image.read_bytes()
    assert not image.with_name("vm.img.nbd").exists()


def test_a_detached_export_outlives_the_command_and_cleans_up_at_its_end(
    image: Path, command: Callable[..., subprocess.Popen[str]]
) -> None:
    pid_file = image.with_name("pid")
    process = command("export", image, "--detach", "--pid-file", pid_file, "--json")
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    pid = int(pid_file.read_text())
    try:
        assert json.loads(out)["pid"] == pid
        qemu_io(json.loads(out)["uri"], "write -P 7 0 8k")
    finally:
        end = os.pidfd_open(pid)
        os.kill(pid, signal.SIGTERM)
        assert _ended(end)
    assert beside(image) == {".000001.hrl", ".000001.dirty", ".tracking"}
    assert not pid_file.exists()


def _ended(pidfd: int) -> bool:
    import select

    ready, _, _ = select.select([pidfd], [], [], 60)
    os.close(pidfd)
    return bool(ready)


def test_an_export_whose_process_can_not_be_noted_is_ended_and_leaves_the_image_free(image: Path) -> None:
    with pytest.raises(NotFoundError):
        br.export(image, detach=True, pid_file=image.with_name("missing") / "pid")
    with br.track(image) as tracked:
        tracked.pwrite(b"free", 0)


def test_an_export_ends_with_the_program_that_began_it(image: Path) -> None:
    code = (
        "import sys, os, blockreplica as br\n"
        "served = br.export(sys.argv[1])\n"
        "print(served.pid, flush=True)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, image], capture_output=True, text=True)
    with contextlib.suppress(ProcessLookupError):
        assert _ended(os.pidfd_open(int(done.stdout)))
    assert ImageSource.open(image).state == "closed"


def test_a_second_tracker_of_an_image_is_refused_by_the_name_of_the_first(image: Path, serve: Serve) -> None:
    """Rules 5 and 6: one tracker an image, whatever front it has; QEMU is kept away too."""
    served = serve(image)
    for second in (lambda: serve(image), lambda: serve(image, socket=image.with_name("s")), lambda: br.track(image)):
        with pytest.raises(BusyError, match=str(served.pid)):
            second()
    assert not image.with_name("s").exists()
    need("qemu-io")
    assert (
        "lock" in subprocess.run(["qemu-io", "-f", "raw", "-c", "quit", image], capture_output=True, text=True).stderr
    )
    served.close()
    with br.track(image), pytest.raises(BusyError, match=str(os.getpid())):
        serve(image)
    serve(image).close()


def test_a_socket_that_somebody_listens_on_is_not_taken_away(image: Path, serve: Serve) -> None:
    other = image.with_name("other.img")
    os.link(image, image.with_name("keep"))
    other.write_bytes(bytes(4096))
    first = serve(image, socket=image.with_name("s"))
    with pytest.raises(BusyError, match="listens"):
        serve(other, socket=image.with_name("s"))
    qemu_io(first.uri, "read 0 4k")
    plain = image.with_name("plain")
    plain.write_text("x")
    with pytest.raises(RefusedError, match="no socket"):
        serve(other, socket=plain)
    assert plain.read_text() == "x"


def test_what_can_not_be_served_is_refused_with_a_reason(image: Path, tmp_path: Path, serve: Serve) -> None:
    with pytest.raises(NotFoundError, match=r"none\.img"):
        serve(tmp_path / "none.img")
    with pytest.raises(RefusedError, match="no disk image"):
        serve(tmp_path)
    with pytest.raises(NotFoundError, match="tracking folder"):
        serve(image, tracking_dir=tmp_path / "none")
    with pytest.raises(UsageError, match="shorter"):
        serve(image, socket=tmp_path / ("s" * 120))
    with pytest.raises(UsageError, match="certificates"):
        serve(image, tcp="localhost:10809")
    with pytest.raises(UsageError, match="both"):
        serve(image, tcp="localhost:10809", socket=tmp_path / "s")
    with pytest.raises(UsageError, match="HOST:PORT"):
        serve(image, tcp="10809", tls=tmp_path)
    assert beside(image) == set()


def test_without_nbdkit_or_its_plugin_it_says_what_is_missing_and_how_to_get_it(
    image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exports, "PLUGIN", tmp_path / "_nbdkit.so")
    with pytest.raises(NotFoundError, match="apt install nbdkit nbdkit-plugin-dev"):
        br.export(image)
    monkeypatch.setattr("shutil.which", lambda *_, **__: None)
    with pytest.raises(NotFoundError, match="apt install nbdkit"):
        br.export(image)


def test_a_plugin_that_nbdkit_can_not_load_is_told_in_its_words(
    image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "_nbdkit.so"
    broken.write_bytes(b"no plugin")
    monkeypatch.setattr(exports, "PLUGIN", broken)
    with pytest.raises(StorageError, match=r"_nbdkit\.so"):
        br.export(image)
    assert not image.with_name("vm.img.nbd").exists()


def test_the_plugin_knows_no_python() -> None:
    names = run("nm", "-D", "--undefined-only", exports.PLUGIN)
    assert "Py" not in names
