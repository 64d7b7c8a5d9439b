"""Holds how long files and functions may be, in both languages: what one can read at once has one subject."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PYTHON = [ROOT / "setup.py", *(path for folder in ("src", "tests", "benchmarks", "demo") for path in
                               sorted((ROOT / folder).rglob("*.py")))]  # fmt: skip
C = sorted((ROOT / "native").rglob("*.[ch]"))
#: Fewer than these.
LINES_OF_A_FILE, LINES_OF_A_FUNCTION = 400, 40


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def python_functions(text: str) -> Iterator[tuple[str, int]]:
    """Name and lines of every function, methods and inner ones too."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name, (node.end_lineno or node.lineno) - node.lineno + 1


def c_functions(text: str) -> Iterator[tuple[str, int]]:
    """Name and lines of every function that is formatted as ours are: its last line is the only one that is a brace in
    the first column, and it begins behind the last empty line, comment, directive or other end before its body."""
    begin, head = 0, ""
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith("}"):
            name = re.search(r"(\w+)\(", head)
            if line == "}" and name:
                yield name[1], number - begin + 1
            begin, head = 0, ""
        elif begin and head.endswith("{"):
            continue
        elif not line or line.startswith(("#", "/*", " *")) or line.endswith((";", "*/", "\\")):
            begin, head = 0, ""
        else:
            begin, head = begin or number, head + line


@pytest.mark.parametrize("path", [*PYTHON, *C], ids=named)
def test_a_file_and_its_functions_stay_short_enough_to_read(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) < LINES_OF_A_FILE
    functions = python_functions(text) if path.suffix == ".py" else c_functions(text)
    assert {name: lines for name, lines in functions if lines >= LINES_OF_A_FUNCTION} == {}


def test_the_check_itself_sees_every_function_of_both_languages() -> None:
    c = "/* a(b) */\nstatic int one(int a,\n               int b) {\n    if (a) {\n    }\n    return b;\n}\n"
    c += "\nenum { a };\n"
    c += "static const int table[] = {\n    1,\n};\nstruct s {\n    int a;\n};\nint two(void) {\n}\n"
    assert list(c_functions(c)) == [("one", 6), ("two", 2)]
    assert list(python_functions("class A:\n    def one(self):\n        def two():\n            pass\n")) == [
        ("one", 3),
        ("two", 2),
    ]
    found = [name for path in C for name, _ in c_functions(path.read_text())]
    assert {"br_tracker_open", "take_over", "main", "plugin_config"} <= set(found)
    assert len(found) > 1000
