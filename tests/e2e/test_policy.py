"""Retention by the commands: shown, changed, explained before anything goes, and carried out."""

from __future__ import annotations

from pathlib import Path

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
