"""Rule 4 for several images: one instant for all, whichever process has them."""

from __future__ import annotations

import random
import struct
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from blockreplica.errors import BusyError
from blockreplica.tracking import Cut, ImageSource, cut_together, group, track

from .helpers import KIB, MIB, die, dirty_granules, make_image, replay

COUNTER = struct.Struct("<Q")


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / "a.img", tmp_path / "b.img"]
    for path in paths:
        make_image(path, MIB)
    return paths


def counters(image: Path, cuts: list[Cut]) -> list[int]:
    """The counter in the image at each cut, by its logs."""
    content, found, epoch = bytearray(MIB), [], 0
    for cut in cuts:
        records = ImageSource.open(image).records(epoch, cut.epoch)
        content = replay([record.log for record in records], content)
        found.append(COUNTER.unpack_from(content)[0])
        epoch = cut.epoch
    return found


def check_counters(images: list[Path], cuts: list[list[Cut | None]], written: int) -> None:
    first = counters(images[0], [cut[0] for cut in cuts if cut[0]])
    second = counters(images[1], [cut[1] for cut in cuts if cut[1]])
    print(list(zip(first, second, strict=True)))
    for ahead, behind in zip(first, second, strict=True):
        assert behind <= ahead <= behind + 1, "the second disk is ahead of the first, or lost a write"
    assert first == sorted(first)
    assert first[-1] == written


def test_no_cut_of_two_images_shows_the_second_ahead_of_the_first(images: list[Path]) -> None:
    with track(images[0], log_limit=1 << 30) as first, track(images[1], log_limit=1 << 30) as second:
        done, written = threading.Event(), 0

        def count() -> None:
            nonlocal written
            while not done.is_set():
                written += 1
                first.pwrite(COUNTER.pack(written), 0)
                second.pwrite(COUNTER.pack(written), 0)

        writer = threading.Thread(target=count)
        writer.start()
        sources = [ImageSource.open(path) for path in images]
        cuts = [cut_together(sources) for _ in range(15)]
        done.set()
        writer.join()
        cuts.append(cut_together(sources))
    check_counters(images, cuts, written)


SERVANT = """
import struct, sys
from blockreplica.tracking import track
with track(sys.argv[1], log_limit=1 << 30) as image:
    print("ready", flush=True)
    for line in sys.stdin:
        image.pwrite(struct.pack("<Q", int(line)), 0)
        print(flush=True)
"""


def test_no_cut_over_two_processes_shows_the_second_ahead_of_the_first(images: list[Path]) -> None:
    children = [subprocess.Popen([sys.executable, "-c", SERVANT, path], stdin=-1, stdout=-1) for path in images]

    def tell(child: subprocess.Popen[bytes], number: int) -> None:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(b"%d\n" % number)
        child.stdin.flush()
        child.stdout.readline()

    for child in children:
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
    done, written = threading.Event(), 0

    def count() -> None:
        nonlocal written
        while not done.is_set():
            written += 1
            for child in children:
                tell(child, written)

    writer = threading.Thread(target=count)
    writer.start()
    sources = [ImageSource.open(path) for path in images]
    assert [source.state for source in sources] == ["tracking", "tracking"]
    cuts = [cut_together(sources) for _ in range(12)]
    done.set()
    writer.join()
    cuts.append(cut_together(sources))
    for child in children:
        child.communicate()
        assert child.returncode == 0
    check_counters(images, cuts, written)


def test_closed_and_untracked_images_are_cut_together_with_live_ones(images: list[Path], tmp_path: Path) -> None:
    plain = tmp_path / "plain.img"
    make_image(plain, KIB)
    with track(images[0]) as closed:
        closed.pwrite(b"x", 0)
    with track(images[1]) as live:
        live.pwrite(b"y", 0)
        cuts = cut_together([ImageSource.open(path) for path in (plain, images[1], images[0])])
        again = cut_together([ImageSource.open(path) for path in (plain, images[1], images[0])])
    assert cuts[0] is None
    assert [cut.epoch for cut in cuts if cut] == [1, 1]
    assert [cut.epoch for cut in again if cut] == [2, 1]
    assert len({cut.time for cut in cuts if cut}) == 1


def test_a_tracker_can_not_begin_while_its_closed_image_is_cut(images: list[Path]) -> None:
    with track(images[0]) as tracked:
        tracked.pwrite(b"x", 0)
    held = ImageSource.open(images[0]).hold()
    assert held is not None
    with held, pytest.raises(BusyError):
        track(images[0])
    track(images[0]).close()


def test_rule_4_no_tracker_begins_to_write_a_closed_member_before_the_instant(
    images: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it would have writes before the instant that its cut lacks."""
    track(images[1]).close()
    set_word, refused = group._Word.set, list[bool]()

    def racing(word: group._Word) -> float:
        try:
            track(images[1]).close()
        except BusyError:
            refused.append(True)
        return set_word(word)

    monkeypatch.setattr(group._Word, "set", racing)
    with track(images[0]) as first:
        first.pwrite(b"x", 0)
        assert all(cut_together([ImageSource.open(image) for image in images]))
    assert refused == [True]


def test_a_tracker_that_died_is_cut_by_settling_it(images: list[Path]) -> None:
    dead, live = track(images[0]), track(images[1])
    dead.pwrite(b"x", 3 * 65536)
    die(dead)
    cuts = cut_together([ImageSource.open(path) for path in images])
    live.close()
    assert [cut.epoch for cut in cuts if cut] == [1, 1]
    assert dirty_granules(ImageSource.open(images[0]).records(0, 1), MIB) == {3}


def test_cuts_by_many_at_once_all_succeed(images: list[Path]) -> None:
    found: list[list[Cut | None]] = []
    with track(images[0]) as first, track(images[1]) as second:

        def cut() -> None:
            for _ in range(3):
                order = random.sample(images, 2)
                found.append(cut_together([ImageSource.open(path) for path in order]))
                second.cut()

        threads = [threading.Thread(target=cut) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert first.cut().epoch == 10
        assert second.cut().epoch == 19
    assert len(found) == 9
    assert not list(images[0].parent.glob("*.word-*"))


def test_when_a_tracker_dies_in_the_middle_all_are_cut_again(
    images: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its writes after the instant can't be told from those before: the first attempt is no point in time."""
    command = [sys.executable, "-c", SERVANT, images[1]]
    with track(images[0]) as live, subprocess.Popen(command, stdin=-1, stdout=-1) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdout.readline()
        child.stdin.write(b"7\n")
        child.stdin.flush()
        child.stdout.readline()
        live.pwrite(COUNTER.pack(7), 0)
        instants: list[float] = []
        set_word = group._Word.set

        def set_and_kill(word: group._Word) -> float:
            instants.append(set_word(word))
            child.kill()
            child.wait()
            return instants[-1]

        monkeypatch.setattr(group._Word, "set", set_and_kill)
        first, second = cut_together([ImageSource.open(path) for path in images])
    assert first is not None
    assert second is not None
    assert len(instants) == 2
    assert first.time == second.time == instants[1]
    assert (first.epoch, second.epoch) == (2, 1)
    assert dirty_granules(ImageSource.open(images[1]).records(0, 1), MIB) == {0}
