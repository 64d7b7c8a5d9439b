"""The C extension; everything else about the package stands in pyproject.toml.

The extension is built for the stable ABI of CPython 3.11, so one wheel serves every later version. The
checksum kernels need `xxhash.h` (Debian: libxxhash-dev); without that header the extension builds all the
same, and the Python package xxhash computes the checksums.
"""

from __future__ import annotations

import os
import sys
from glob import glob

from setuptools import Extension, setup

try:  # setuptools carries bdist_wheel since version 70.1, the wheel package before that
    from setuptools.command.bdist_wheel import bdist_wheel
except ImportError:
    from wheel.bdist_wheel import bdist_wheel


class AbiWheel(bdist_wheel):
    """Tags the wheel cp311-abi3."""

    def finalize_options(self) -> None:
        super().finalize_options()
        self.root_is_pure = False

    def get_tag(self) -> tuple[str, str, str]:
        python, abi, platform = super().get_tag()
        return ("cp311", "abi3", platform) if python.startswith("cp") else (python, abi, platform)


flags = ["-std=gnu11", "-O3", "-Wall", "-Wextra", "-fvisibility=hidden", "-D_GNU_SOURCE"]
if os.environ.get("BLOCKREPLICA_WERROR"):
    flags.append("-Werror")
if os.environ.get("BLOCKREPLICA_NO_XXHASH_H"):
    flags.append("-DBLOCKREPLICA_NO_XXHASH_H")
flags += os.environ.get("BLOCKREPLICA_CFLAGS", "").split()

native = Extension(
    "blockreplica._native",
    sources=sorted(glob("native/*.c")),
    depends=sorted(glob("native/*.h")),
    include_dirs=["native"],
    define_macros=[("Py_LIMITED_API", "0x030B0000")],
    extra_compile_args=flags,
    extra_link_args=["-pthread", *os.environ.get("BLOCKREPLICA_LDFLAGS", "").split()],
    py_limited_api=True,
)

if sys.platform != "linux":
    sys.exit("blockreplica runs on Linux only")
setup(ext_modules=[native], cmdclass={"bdist_wheel": AbiWheel})
