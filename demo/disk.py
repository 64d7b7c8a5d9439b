"""A real disk for the demo: an ext4 file system from a real tree, and changes to it that need no mount.

Files are changed by debugfs in a second copy of the image; then the blocks that differ are written through the
tracker, as a guest would write them.
"""

from __future__ import annotations

import random
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import blockreplica as br

MIB = 1 << 20
GRANULE = 4096
WINDOW = 4 * MIB

#: Where the demo's files come from: whatever a Debian has there, until it is enough.
SOURCES = (Path("/usr/share"), Path("/usr/lib"))


def tool(*command: str | Path, input: str | None = None) -> str:
    """Run a program of the system; its output."""
    words = [str(word) for word in command]
    done = subprocess.run(words, capture_output=True, text=True, input=input, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


def gather(folder: Path, limit: int) -> int:
    """Copy regular files of this machine into `folder`, `limit` bytes at the most; how many there are."""
    count = taken = 0
    for source in SOURCES:
        for path in sorted(source.rglob("*")):
            if path.is_symlink() or not path.is_file() or '"' in str(path):
                continue
            size = path.stat().st_size
            if taken + size > limit:
                return count
            target = folder / path.relative_to("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
            count, taken = count + 1, taken + size
    return count


def make(image: Path, tree: Path, size: int) -> None:
    """An ext4 file system with everything of `tree` in it."""
    image.touch()
    tool("mke2fs", "-q", "-F", "-t", "ext4", "-L", "demo", "-d", tree, image, f"{size // 1024}k")


def change(image: Path, work: Path, paths: list[Path], number: int) -> str:
    """What happens to the file system in round `number`, done to `image` by debugfs; said in words."""
    chance = random.Random(number)
    rewritten = chance.sample(paths, 40)
    removed = [path for path in chance.sample(paths, 30) if path not in rewritten]
    script = [f'cd "/{path.parent}"\nrm "{path.name}"\ncd /' for path in rewritten + removed]
    for index, path in enumerate(rewritten):
        text = work / f"rewritten-{index}"
        text.write_text(f"round {number}: {path}\n" * chance.randrange(20, 2000))
        script.append(f'cd "/{path.parent}"\nwrite "{text}" "{path.name}"\ncd /')
    database = work / "database"
    database.write_bytes(chance.randbytes(6 * MIB))
    script.append(f'write "{database}" "database-{number}"')
    tool("debugfs", "-w", "-f", "-", image, input="\n".join(script) + "\n")
    for path in removed:
        paths.remove(path)
    return f"{len(rewritten)} files rewritten, {len(removed)} removed, a database of 6 MiB added"


def differing(image: Path, changed: Path) -> Iterator[tuple[int, bytes]]:
    """Offset and new content of every run of 4 KiB granules of `image` that `changed` has otherwise."""
    with image.open("rb") as old, changed.open("rb") as new:
        offset = 0
        while after := new.read(WINDOW):
            before = old.read(WINDOW)
            start = None
            for at in range(0, len(after) + GRANULE, GRANULE):
                same = before[at : at + GRANULE] == after[at : at + GRANULE]
                if start is None and not same:
                    start = at
                elif start is not None and same:
                    yield offset + start, after[start:at]
                    start = None
            offset += len(after)


def write(image: Path, changed: Path) -> int:
    """Write through a tracker what `changed` has otherwise; how many bytes that was."""
    with br.track(image) as tracked:
        written = 0
        for offset, data in differing(image, changed):
            tracked.pwrite(data, offset)
            written += len(data)
        tracked.flush()
    return written


def healthy(image: Path) -> str:
    """What e2fsck says of the file system, looking only; SystemExit when it finds a fault."""
    return tool("e2fsck", "-fn", image).splitlines()[-1]


def same(first: Path, second: Path) -> bool:
    """Whether two files have the same bytes."""
    return subprocess.run(["cmp", "--silent", first, second], check=False).returncode == 0
