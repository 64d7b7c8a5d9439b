"""What holds for every test."""

from __future__ import annotations

import itertools

import pytest

_number = itertools.count()


@pytest.fixture(autouse=True)
def nobodys_state(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sees or changes the catalog of whoever runs it; those that need one of their own name it themselves."""
    monkeypatch.setenv("BLOCKREPLICA_STATE", str(tmp_path_factory.getbasetemp() / f"state-{next(_number)}"))
