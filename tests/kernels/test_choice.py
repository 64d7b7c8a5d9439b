"""Which implementation serves, and what happens when it cannot."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from blockreplica import _native, kernels

ROOT = Path(__file__).resolve().parents[2]


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("BLOCKREPLICA_")}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=clean | environment, capture_output=True, text=True, check=False)


SHOW = "from blockreplica import kernels; print(kernels.NATIVE, kernels.VARIANT, kernels.crc32c(b'123456789'))"


def test_the_c_core_serves_and_takes_the_best_variant() -> None:
    assert run(SHOW).stdout == f"True {_native.variants()[-1]} {0xE3069283}\n"


def test_the_twin_serves_where_it_is_asked_for() -> None:
    assert run(SHOW, BLOCKREPLICA_KERNELS="reference").stdout == f"False python {0xE3069283}\n"


@pytest.mark.parametrize("variant", _native.variants())
def test_a_variant_is_forced_by_name(variant: str) -> None:
    assert run(SHOW, BLOCKREPLICA_CPU=variant).stdout == f"True {variant} {0xE3069283}\n"


@pytest.mark.parametrize(
    ("environment", "text"),
    [
        ({"BLOCKREPLICA_KERNELS": "fast"}, "BLOCKREPLICA_KERNELS='fast': wanted native or reference"),
        ({"BLOCKREPLICA_CPU": "avx9"}, "there is none of that name; this CPU runs scalar"),
        ({"BLOCKREPLICA_CPU": "avx2", "BLOCKREPLICA_KERNELS": "reference"}, "BLOCKREPLICA_CPU='avx2'"),
    ],
)
def test_what_was_asked_for_and_cannot_be_had_is_an_import_error(environment: dict[str, str], text: str) -> None:
    result = run(SHOW, **environment)
    assert result.returncode != 0
    assert "ImportError: " in result.stderr
    assert text in result.stderr


def test_the_c_core_needs_neither_numpy_nor_xxhash() -> None:
    code = f"{SHOW}\nimport sys\nprint([name for name in ('numpy', 'xxhash', 'ctypes') if name in sys.modules])"
    assert run(code).stdout.endswith("\n[]\n")


def test_selecting_an_unknown_variant_leaves_the_old_one() -> None:
    before = _native.variant()
    with pytest.raises(ValueError, match="none of that name"):
        _native.select_variant("")
    assert _native.variant() == before


def test_every_kernel_has_its_twin_and_its_type_stub() -> None:
    names = set(kernels._CHECKSUMS + kernels._OTHERS)
    from blockreplica import _reference

    assert set(_reference.__all__) == names
    assert all(hasattr(kernels, name) for name in names)
    stub = (ROOT / "src/blockreplica/_native.pyi").read_text()
    assert all(f"def {name}(" in stub for name in names)


WITHOUT_HEADER = """
import os, sys
sys.path.insert(0, sys.argv[1])
from blockreplica import _native, kernels
assert _native.__file__.startswith(sys.argv[1]), _native.__file__
assert not hasattr(_native, "checksum_buffer") and not hasattr(_native, "copy_file")
assert kernels.NATIVE and kernels.coalesce is _native.coalesce
from xxhash import xxh3_128_digest
out = bytearray(32)
kernels.checksum_buffer(b"abc", 2, out, seed=3)
assert out == xxh3_128_digest(b"ab", 3) + xxh3_128_digest(b"c", 3)
fd = os.open(sys.argv[0] if os.path.exists(sys.argv[0]) else sys.executable, os.O_RDONLY)
kernels.checksum_file(fd, 0, 3, 2, out)
"""


def test_without_the_header_xxhash_h_the_extension_builds_and_the_package_xxhash_serves(tmp_path: Path) -> None:
    for name in ("native", "setup.py", "pyproject.toml"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "src").mkdir()
    ignored = shutil.ignore_patterns("*.so", "__pycache__")
    shutil.copytree(ROOT / "src/blockreplica", tmp_path / "src/blockreplica", ignore=ignored)
    environment = {**os.environ, "BLOCKREPLICA_NO_XXHASH_H": "1", "BLOCKREPLICA_CFLAGS": "-O0 -Werror"}
    command = [sys.executable, "-W", "ignore", "setup.py", "-q", "build_ext", "--inplace"]
    built = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    result = subprocess.run(
        [sys.executable, "-c", WITHOUT_HEADER, tmp_path / "src"], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
