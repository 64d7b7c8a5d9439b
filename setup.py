"""The C extension; everything else about the package stands in pyproject.toml.

The extension is built for the stable ABI of CPython 3.11, so one wheel serves every later version. The
checksum kernels need `xxhash.h` (Debian: libxxhash-dev); without that header the extension builds all the
same, and the Python package xxhash computes the checksums.

The nbdkit plugins `_nbdkit.so` (a tracked image) and `_nbdpoint.so` (a recovery point) are the same C core
without any Python; they are built where nbdkit's header is
(Debian: nbdkit-plugin-dev) and left out elsewhere: `blockreplica export`
and `serve-point` then say what is missing.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from glob import glob

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

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


def nbdkit_plugin(name: str, folder: str) -> Extension:
    """A plugin: the C core without any Python, and the folder's own files."""
    return Extension(
        f"blockreplica.{name}",
        sources=[one for one in native.sources if not os.path.basename(one).startswith(("py_", "module"))]
        + sorted({*glob(f"native/{folder}/*.c"), "native/nbdkit/hangup.c"}),
        depends=native.depends + sorted(glob("native/nbd*/*.h")),
        include_dirs=["native"],
        extra_compile_args=flags,
        extra_link_args=native.extra_link_args,
        py_limited_api=True,
        optional=True,
    )


plugins = [nbdkit_plugin("_nbdkit", "nbdkit"), nbdkit_plugin("_nbdpoint", "nbdpoint")]


class Build(build_ext):
    """Leaves the plugin out where it can't be built; gives it a name without any Python's tag."""

    def build_extensions(self) -> None:
        if not self._has_nbdkit():
            print("nbdkit-plugin.h is missing: built without the plugins: `export` and `serve-point` will not work")
            self.extensions = [one for one in self.extensions if one not in plugins]
        super().build_extensions()

    def get_ext_filename(self, fullname: str) -> str:
        if fullname.rpartition(".")[2] in ("_nbdkit", "_nbdpoint"):
            return os.path.join(*fullname.split(".")) + ".so"
        return super().get_ext_filename(fullname)

    def get_export_symbols(self, ext: Extension) -> list[str]:
        return [] if ext in plugins else super().get_export_symbols(ext)

    def _has_nbdkit(self) -> bool:
        if os.environ.get("BLOCKREPLICA_NO_NBDKIT_H"):
            return False
        with tempfile.TemporaryDirectory() as folder:
            source = os.path.join(folder, "probe.c")
            with open(source, "w") as file:
                file.write("#define NBDKIT_API_VERSION 2\n#include <nbdkit-plugin.h>\n"
                           "static struct nbdkit_plugin p; void *use = &p.block_size;\n")  # fmt: skip
            try:
                command = [*self.compiler.compiler, *os.environ.get("CFLAGS", "").split()]
                return (
                    subprocess.run([*command, "-c", source, "-o", source + ".o"], capture_output=True).returncode == 0
                )
            except OSError:
                return False


if sys.platform != "linux":
    sys.exit("blockreplica runs on Linux only")
setup(ext_modules=[native, *plugins], cmdclass={"bdist_wheel": AbiWheel, "build_ext": Build})
