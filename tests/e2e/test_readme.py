"""The README's transcript of the main job is true: its commands, given as they stand there, say what it shows."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import blockreplica

README = (Path(__file__).resolve().parents[2] / "README.md").read_text()
SIZE = 256 << 20


def transcript() -> list[tuple[str, str]]:
    """Each command of the main job, and what it says."""
    text = README.partition("The main job:\n")[2].partition("\nThe newest replica")[0]
    steps = re.sub(r"^    ", "", text, flags=re.MULTILINE).strip("\n").split("$ ")[1:]
    found = []
    for step in steps:
        lines = step.split("\n")
        end = next(at for at, line in enumerate(lines) if "\n".join(lines[: at + 1]).count("'") % 2 == 0)
        found.append(("\n".join(lines[: end + 1]), "\n".join(lines[end + 1 :]).strip()))
    return found


def shape(said: str) -> str:
    """What was said, without what differs from run to run: amounts, seconds and times, and the widths of columns."""
    said = re.sub(r"\d{4}-\d\d-\d\dT[\d:.]+Z", "TIME", said)
    return re.sub(r" +", " ", re.sub(r"\d+(\.\d+)? s\b", "SECONDS", re.sub(r"127\.\d MiB", "127 MiB", said)))


def test_the_transcript_is_what_a_new_user_sees(tmp_path: Path) -> None:
    with (tmp_path / "vm.img").open("wb") as file:
        file.write(os.urandom(127 << 20))
        file.truncate(SIZE)
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, words in (("python3", ""), ("blockreplica", "-m blockreplica")):
        (programs / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {words} "$@"\n')
        (programs / name).chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{programs}:{os.environ['PATH']}",
        "PYTHONPATH": str(Path(blockreplica.__file__).resolve().parents[1]),
        "BLOCKREPLICA_STATE": str(tmp_path / "s"),
    }
    steps = transcript()
    assert len(steps) == 6
    for command, said in steps:
        given = command.replace("/replicas", str(tmp_path / "replicas"))
        result = subprocess.run(
            ["sh", "-c", given], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
        )
        assert shape(result.stdout.strip()) == shape(said), command
    assert (tmp_path / "before.img").stat().st_size == SIZE
