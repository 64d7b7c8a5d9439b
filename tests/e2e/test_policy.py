"""Retention by the commands: shown, changed, explained before anything goes, and carried out."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from blockreplica.stores import churn

from .commands import Ask, write


def test_a_policy_is_shown_changed_explained_and_carried_out(ask: Ask, protected: Path) -> None:
    for number in range(5):
        write(protected, (number * 4096, b"x" * 4096))
        ask("sync", "vm", "--json")
    assert ask("points", "policy", "vm", "--json").json["last"] == 24
    assert ask("points", "pin", "vm", "1.2", "--json").json == {"name": "vm", "point": "1.2", "pinned": True}
    assert ask("points", "policy", "vm", "--keep-last", 2, "--min-age", "9h", "--json").json["min_age"] == 9 * 3600
    young = ask("points", "prune", "vm", "--json").json
    assert all(each["keep"] for each in young["decisions"])
    assert any("is below 9 h" in reason for reason in young["decisions"][0]["reasons"])
    ask("points", "policy", "vm", "--keep-last", 2)
    dry = ask("points", "prune", "vm", "--dry-run", "--json").json
    assert [each["point"] for each in dry["decisions"] if each["keep"]] == ["1.2", "1.5", "1.6"]
    assert len(ask("points", "vm", "--json").json) == 6
    assert "no rule keeps it" in ask("points", "prune", "vm").out
    assert [(each["id"], each["pinned"]) for each in ask("points", "--json", "vm").json] == [
        ("1.2", True), ("1.5", False), ("1.6", False)
    ]  # fmt: skip
    assert ask("verify", "vm").code == 0
    ask("points", "unpin", "vm", "1.2")
    ask("sync", "vm")
    assert [each["id"] for each in ask("points", "vm", "--json").json] == ["1.6", "1.7"]


def test_a_delta_of_noise_after_calm_ones_marks_its_point_and_names_the_last_before(
    ask: Ask, protected: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(churn, "LEAST_BYTES", 500_000)
    for number in range(4):
        write(protected, (number * 8192, b"calm" * 1024))
        assert ask("sync", "vm", "--json").json["warnings"] == []
    for _ in range(2):
        write(protected, (1 << 20, os.urandom(1 << 20)))
        (warning,) = ask("sync", "vm", "--json").json["warnings"]
        assert "point 1.5, the last one before, is kept for 30 days" in warning
    points = ask("points", "vm", "--json").json
    assert [bool(each["warning"]) for each in points] == [False] * 5 + [True] * 2
    assert [each["last_before"] for each in points] == [""] * 5 + ["1.5"] * 2
    assert ask("points", "vm").out.count("UNUSUAL (the last before: 1.5)") == 2
    ask("points", "policy", "vm", "--keep-last", "1")
    for _ in range(3):
        ask("sync", "vm")
    assert [each["id"] for each in ask("points", "vm", "--json").json] == ["1.5", "1.7", "1.10"]
