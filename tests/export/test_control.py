"""The control socket is the same for both fronts, the library's tracker and an export: rules 4 and 5."""

from __future__ import annotations

import array
import fcntl
import os
import termios
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import blockreplica as br
from blockreplica.errors import StorageError
from blockreplica.tracking import ImageSource
from blockreplica.tracking.control import Control
from blockreplica.tracking.names import Names

from .conftest import MIB
from .tools import qemu_io

Opened = Callable[[Path], Any]


@pytest.fixture(params=["library", "export"])
def opened(request: pytest.FixtureRequest, serve: Callable[..., br.Export], tmp_path: Path) -> Opened:
    """Has an image tracked, by either front; what it returns is a context manager."""

    def start(image: Path) -> Any:
        return br.track(image) if request.param == "library" else serve(image, socket=tmp_path / "nbd")

    return start


def write(tracked: Any, data: bytes, offset: int) -> None:
    if isinstance(tracked, br.Export):
        qemu_io(tracked.uri, f"write -P {data[0]} {offset} {len(data)}")
    else:
        tracked.pwrite(data, offset)


def connect(image: Path) -> Control:
    control = ImageSource.open(image).ask()
    assert control is not None
    return control


@pytest.mark.parametrize(
    "line", [b"", b"x" * 100_000, b"nonsense", b"prepare", b"finish", b"prepare /no/such", b"\xff"]
)
def test_nonsense_disturbs_nobody(image: Path, opened: Opened, line: bytes) -> None:
    with opened(image) as tracked:
        with connect(image) as control:
            control._stream.write(line + b"\n")
            control._stream.flush()
            assert b'"error"' in control._stream.readline()
        write(tracked, b"x" * 512, 0)
        cut = ImageSource.open(image).cut()
        assert cut is not None
        assert cut.epoch == 1


@pytest.mark.parametrize("made", [False, True])
def test_a_cutter_that_hangs_up_leaves_a_made_cut_finished_and_another_forgotten(
    image: Path, tmp_path: Path, opened: Opened, made: bool
) -> None:
    word = tmp_path / "word"
    word.write_bytes(bytes(8))
    with opened(image) as tracked:
        write(tracked, b"a" * 512, 0)
        with connect(image) as control:
            control.prepare(word)
            if made:
                word.write_bytes(b"\1".ljust(8, b"\0"))
        write(tracked, b"b" * 512, 512)
        cut = ImageSource.open(image).cut()
        assert cut is not None
        assert cut.epoch == (2 if made else 1)


def has_been_read(control: Control) -> bool:
    """Whether the other side has taken all that was sent."""
    waiting = array.array("i", [0])
    fcntl.ioctl(control._connection.fileno(), termios.TIOCOUTQ, waiting)
    return waiting[0] == 0


def test_rule_5_cuts_take_turns(image: Path, tmp_path: Path, opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is asked for while another is prepared waits: it neither fails nor undoes that."""
    word, made, sent = tmp_path / "word", list[int](), threading.Event()
    word.write_bytes(bytes(8))
    with opened(image) as tracked, connect(image) as first, connect(image) as second:
        write(tracked, b"a" * 512, 0)
        first.prepare(word)
        answer = second._stream.readline
        monkeypatch.setattr(second._stream, "readline", lambda *limit: (sent.set(), answer(*limit))[1], raising=False)
        waiting = threading.Thread(target=lambda: made.append(second.cut().epoch))
        waiting.start()
        assert sent.wait(60)
        while not has_been_read(second):
            time.sleep(0.001)
        with connect(image) as third:
            third.status()
        word.write_bytes(b"\1".ljust(8, b"\0"))
        assert first.finish().epoch == 1
        waiting.join()
    assert made == [2]


def test_many_connections_at_once_are_answered(image: Path, opened: Opened) -> None:
    with opened(image):
        controls = [connect(image) for _ in range(60)]
        assert {one.status().epoch for one in controls} == {1}
        assert [one.cut().epoch for one in controls[:5]] == [1, 2, 3, 4, 5]
        for one in controls:
            one.close()
        with connect(image) as control:
            assert control.status().epoch == 6


def test_names_that_are_no_text_and_paths_longer_than_an_address_are_no_obstacle(
    tmp_path: Path, opened: Opened
) -> None:
    folder = tmp_path / ("long" * 40)
    folder.mkdir()
    image = folder / os.fsdecode(b'a "b"\\\t\xff\xc3\xa9')
    image.write_bytes(bytes(MIB))
    with opened(image) as tracked:
        assert tracked.status().state == "tracking"
        with connect(image) as control:
            assert control.status() == tracked.status()
            missing = folder / os.fsdecode(b"\xfe none")
            with pytest.raises(Exception, match="word") as caught:
                control.prepare(missing)
            assert str(missing) in str(caught.value)
            assert control.cut().epoch == 1
    assert not Names.of(image).control.exists()
    assert ImageSource.open(image).state == "closed"


def test_the_end_of_a_tracker_ends_its_connections(image: Path, opened: Opened) -> None:
    from blockreplica.tracking.control import GoneError

    with opened(image):
        control = connect(image)
        control.status()
    with control, pytest.raises((GoneError, StorageError)):
        control.status()
