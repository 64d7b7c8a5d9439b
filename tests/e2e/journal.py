"""A guest that keeps a journal of numbers, and what of it a copy of its disk must hold.

The guest says `begin N` before it writes the numbers up to N and `done N` once they are fsynced, so that each
instant has two bounds: what had been acknowledged must be there, what had not been begun cannot be. Between two fsyncs
it makes, replaces and removes files, so that a file system has something to get wrong.
"""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

BATCH = 3

#: Writes until it is killed. The number that it found in the journal is said first.
WRITE = f"""
mount -t ext4 /dev/vda /mnt || exit
i=$(tail -n 1 /mnt/journal 2>/dev/null)
say "found ${{i:=0}}"
while :; do
    say "begin $((i + {BATCH}))"
    seq $((i + 1)) $((i + {BATCH})) | dd of=/mnt/journal conv=fsync,notrunc oflag=append 2>/dev/null || break
    i=$((i + {BATCH}))
    say "done $i"
    dd if=/dev/urandom of=/mnt/new bs=4096 count=$((i % 23 + 1)) 2>/dev/null
    mv /mnt/new /mnt/file.$((i % 7))
    [ $((i % 4)) -gt 0 ] || rm -f /mnt/file.$((i % 5))
done
"""

#: Says the length of the journal if it is whole, and turns the machine off.
CHECK = """
mount -t ext4 /dev/vda /mnt && n=$(wc -l < /mnt/journal) && seq 1 $n | cmp -s - /mnt/journal && say "journal $n"
umount /mnt && say "unmounted"
"""

_COMPLAINTS = ("EXT4-fs error", "I/O error", "JBD2:", "critical medium")


def complaints(said: list[str]) -> list[str]:
    """What a kernel said about a disk that failed, or a file system that is not what it was."""
    return [line for line in said if any(word in line for word in _COMPLAINTS)]


def format_disk(path: Path, size: int) -> Path:
    """An image with an empty ext4 in it."""
    with path.open("wb") as file:
        file.truncate(size)
    subprocess.run(["mke2fs", "-q", "-t", "ext4", "-J", "size=4", path], check=True)
    return path


@dataclass(frozen=True, slots=True)
class Bounds:
    """What the journal must hold at a point: at least `acknowledged` numbers, at most `begun`."""

    point: str
    acknowledged: int
    begun: int


def numbers_in(image: Path) -> int:
    """How many numbers the journal in an image holds: 1 to that, in order, in a file system that is clean after the
    replay of its own journal, by a copy of the image."""
    copy, found = image.with_suffix(".checked"), image.with_suffix(".journal")
    shutil.copyfile(image, copy)
    replayed = subprocess.run(["e2fsck", "-p", copy], capture_output=True, text=True)
    assert replayed.returncode in (0, 1), replayed.stdout + replayed.stderr
    checked = subprocess.run(["e2fsck", "-f", "-n", copy], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    subprocess.run(["debugfs", "-R", f"dump /journal {found}", copy], capture_output=True, check=True)
    numbers = [int(line) for line in found.read_text().split()]
    assert numbers == list(range(1, len(numbers) + 1))
    copy.unlink()
    return len(numbers)
