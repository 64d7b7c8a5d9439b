"""Holds the floors: a module imports only what stands below it, and a few habits that a program can check."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import blockreplica

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src"
PACKAGE = SOURCE / "blockreplica"

#: From the ground up. A name stands for a module, or for a package with everything in it; those of one line
#: may not import one another. `__init__` is the public API.
FLOORS = [
    ["errors", "arrays"],
    ["ahead", "units", "extents", "progress"],
    ["_native", "_reference"],
    ["kernels"],
    ["files", "nbdkit", "places"],
    ["bitmap", "checksums", "manifest", "hrl"],
    ["images", "stores", "transport"],
    ["tracking"],
    ["replication"],
    ["recovery", "primaries"],
    ["protection"],
    ["service"],
    ["__init__"],
    ["cli"],
    ["__main__"],
]
LEVEL = {name: level for level, names in enumerate(FLOORS) for name in names}

#: Only the kernels' chooser may know which implementation there is.
KERNELS_ONLY = {"_native", "_reference"}


def module_of(path: Path) -> str:
    """Dotted name of a source file."""
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def top(module: str) -> str:
    """The floor's name for a dotted module."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def imports_of(module: str, tree: ast.AST) -> set[str]:
    """Modules of the package that `tree` imports, wherever in it and whatever for (types too)."""
    package = module if MODULES[module].name == "__init__.py" else module.rpartition(".")[0]
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parts, *([base] if base else [])])
            inside = {f"{base}.{alias.name}" for alias in node.names}
            submodules = {name for name in inside if name in MODULES or name == "blockreplica._native"}
            found.update(submodules)
            if submodules != inside:
                found.add(base)
    return {name for name in found if name.split(".")[0] == "blockreplica"}


def tree_of(module: str) -> ast.Module:
    """The syntax tree of a module."""
    return ast.parse(MODULES[module].read_text(), str(MODULES[module]))


@pytest.mark.parametrize("module", MODULES)
def test_every_module_stands_on_a_floor(module: str) -> None:
    assert top(module) in LEVEL, f"{module} has no floor: give it one in FLOORS"


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_down_only(module: str) -> None:
    for imported in sorted(imports_of(module, tree_of(module))):
        if top(imported) == top(module):
            continue
        assert LEVEL[top(imported)] < LEVEL[top(module)], f"{module} imports {imported}, not below it"


def test_modules_of_one_package_import_one_another_without_cycles() -> None:
    graph = {module: imports_of(module, tree_of(module)) & set(MODULES) for module in MODULES}
    done: set[str] = set()

    def visit(module: str, above: tuple[str, ...]) -> None:
        assert module not in above, "cycle: " + " -> ".join([*above, module])
        if module not in done:
            for imported in graph[module] - {module}:
                visit(imported, (*above, module))
            done.add(module)

    for module in graph:
        visit(module, ())


@pytest.mark.parametrize("module", MODULES)
def test_only_kernels_knows_which_implementation_runs(module: str) -> None:
    if top(module) in {"kernels", *KERNELS_ONLY}:
        return
    named = {top(imported) for imported in imports_of(module, tree_of(module))}
    assert not named & KERNELS_ONLY, f"{module} imports {named & KERNELS_ONLY}: import kernels"


@pytest.mark.parametrize("module", MODULES)
def test_only_the_seam_replaces_files(module: str) -> None:
    if module == "blockreplica.files":
        return
    for node in ast.walk(tree_of(module)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "os":
            assert node.attr not in {"replace", "rename", "renames"}, f"{module}:{node.lineno}: go through files.Files"


@pytest.mark.parametrize("module", MODULES)
def test_every_module_says_first_why_it_exists(module: str) -> None:
    assert ast.get_docstring(tree_of(module)), f"{module} has no docstring"


def test_no_module_hides_a_public_name() -> None:
    assert blockreplica.__all__
    assert not set(blockreplica.__all__) & {top(module) for module in MODULES}
    for name in blockreplica.__all__:
        assert callable(getattr(blockreplica, name)), f"blockreplica.{name} is not what it should be"


#: Too slow to be loaded before it is known what the user wants.
HEAVY = ["numpy", "rich", "sqlite3", "msgspec", "zstandard", "xxhash"]


@pytest.mark.parametrize("statement", ["import blockreplica", "import blockreplica.cli.main"])
def test_an_import_loads_nothing_heavy(statement: str) -> None:
    code = f"{statement}\nimport sys\nprint([name for name in {HEAVY} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_numpy_waits_for_the_first_array() -> None:
    """It takes longer to load than the rest: a scan begins before it, `status` and `points` do without."""
    every = ", ".join(module for module in MODULES if not module.endswith("__main__"))
    code = f"import sys, {every}\nprint(sorted(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(ast.literal_eval(result.stdout))
    assert {"blockreplica.stores.disk", "blockreplica.hrl.reader"} <= loaded
    assert "numpy" not in loaded


@pytest.mark.parametrize("arguments", [["--help"], ["sync", "--help"], ["hrl", "--help"], ["--version"]])
def test_help_loads_nothing_heavy(arguments: list[str]) -> None:
    command = [sys.executable, "-X", "importtime", "-m", "blockreplica", *arguments]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    loaded = {line.rpartition("|")[2].strip() for line in result.stderr.splitlines()}
    assert "click" in loaded, "the import log was not understood"
    assert not loaded & set(HEAVY)
