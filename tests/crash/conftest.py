"""Where these tests put their files: in memory, where there is room. What a kill or a simulated power cut leaves does
not depend on the disk below, and hundreds of them make its fsyncs the only thing that a run waits for."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from blockreplica.stores import blend, stage
from crash.scene import Scene

MEMORY, ROOM = Path("/dev/shm"), 256 << 20


@pytest.fixture
def tmp_path(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory instead of pytest's own, removed at the end."""
    if not os.access(MEMORY, os.W_OK) or shutil.disk_usage(MEMORY).free < ROOM:
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(prefix="blockreplica-", dir=MEMORY) as folder:
        yield Path(folder)


@pytest.fixture(autouse=True)
def small_stages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small disks have many batches and stages too."""
    monkeypatch.setattr(blend, "BATCH_BYTES", 32 << 10)
    monkeypatch.setattr(stage, "STAGE_BYTES", 32 << 10)


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a catalog of this test's own."""
    monkeypatch.setenv("BLOCKREPLICA_STATE", str(tmp_path / "state"))
    return tmp_path / "state"


@pytest.fixture
def scene(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Scene:
    """A tracked image with three points."""
    return Scene(tmp_path, capsys)
