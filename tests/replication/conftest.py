"""A state folder of its own for each test, and windows so small that small images have several."""

from __future__ import annotations

from pathlib import Path

import pytest

from blockreplica.replication import bulk


@pytest.fixture(autouse=True)
def state_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the catalog of this test is."""
    monkeypatch.setenv("BLOCKREPLICA_STATE", str(tmp_path / "state"))
    return tmp_path / "state"


@pytest.fixture
def small_windows(monkeypatch: pytest.MonkeyPatch) -> int:
    """Windows of one table page, a checkpoint after each; returns how many blocks a window has."""
    monkeypatch.setattr(bulk, "WINDOW_PAGES", 0)
    monkeypatch.setattr(bulk, "CHECKPOINT_SECONDS", -1.0)
    return 255
