"""What commands print."""

from __future__ import annotations

import json
from pathlib import Path
from uuid import UUID

import msgspec
import pytest

from blockreplica.cli.common import columns, plain, show


class Inner(msgspec.Struct, frozen=True):
    """A part."""

    path: Path


class Outer(msgspec.Struct, frozen=True):
    """A whole."""

    parts: list[Inner]
    id: UUID
    missing: None = None


def test_structs_paths_and_uuids_become_plain_json() -> None:
    value = Outer([Inner(Path("/a"))], UUID(int=5))
    assert plain(value) == {"parts": [{"path": "/a"}], "id": str(UUID(int=5)), "missing": None}


def test_what_json_has_no_word_for_is_refused() -> None:
    with pytest.raises(TypeError, match="object"):
        plain(object())


def test_json_and_text_both_go_to_stdout_alone(capsys: pytest.CaptureFixture[str]) -> None:
    show({"a": 1}, str, as_json=True)
    out, err = capsys.readouterr()
    assert (json.loads(out), err) == ({"a": 1}, "")
    show({"a": 1}, lambda value: f"a is {value['a']}", as_json=False)
    assert capsys.readouterr() == ("a is 1\n", "")


def test_columns_line_up_and_numbers_stand_to_the_right() -> None:
    text = columns(("NAME", "SIZE"), [("a", 7), ("longer", 1234)])
    assert text.splitlines() == ["NAME    SIZE", "a          7", "longer  1234"]


def test_columns_without_rows_are_their_names() -> None:
    assert columns(("NAME", "SIZE"), []) == "NAME  SIZE"
