"""Each rule for the hard cases, 1 to 21, has a test that bears its number and bugs that are planted against it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent
#: Rules of tracking and storing; those behind them are of what is not built yet.
RULES = range(1, 22)


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_is_played_by_a_test_and_broken_by_a_planted_bug(rule: int) -> None:
    sources = {path: path.read_text() for path in TESTS.rglob("*.py") if path != Path(__file__)}
    named = re.compile(rf"def test_\w*rule_{rule}_")
    planted = re.compile(rf'^ +"{rule}: ', re.MULTILINE)
    assert any(named.search(text) for text in sources.values()), f"no test is named after rule {rule}"
    assert any(planted.search(text) for path, text in sources.items() if path.parent.name == "crash"), (
        f"no bug is planted against rule {rule}: see `make mutations`"
    )
