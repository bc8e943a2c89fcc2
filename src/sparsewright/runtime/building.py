"""Compiles the kernels: part of the package's build, and ``python -m sparsewright.runtime.building`` afterwards.

It needs a C++17 compiler, nothing else; the build loads this file alone, before the package is there.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

SOURCES = Path(__file__).parent / "kernels"

COMPILERS = ("c++", "g++", "clang++")
"""Tried in this order unless the environment variable CXX names one."""

FLAGS = ("-std=c++17", "-O3", "-fPIC", "-shared", "-fvisibility=hidden", "-ffp-contract=fast", "-Wno-psabi")

_X86 = ("x86_64", "AMD64")
_SETS = {
    "portable": (4, 16, ()),
    "avx2": (8, 16, ("-mavx2", "-mfma")),
    "avx512": (16, 32, ("-mavx512f", "-mfma")),
}


class BuildError(RuntimeError):
    """The kernels could not be compiled; the message says why."""


def find_compiler() -> list[str]:
    """The command of a C++ compiler.

    Raises:
        BuildError: there is none.
    """
    wanted = os.environ.get("CXX", "").split()
    names = [wanted[0]] if wanted else list(COMPILERS)
    for name in names:
        if found := shutil.which(name):
            return [found, *wanted[1:]]
    raise BuildError(f"there is no C++ compiler ({', '.join(names)}); set CXX to one")


def build_kernels(folder: Path) -> list[Path]:
    """Compile one library for each instruction set of this kind of processor.

    Args:
        folder: where they go; each is replaced whole.

    Returns:
        The libraries.

    Raises:
        BuildError: there is no compiler, or it fails.
    """
    compiler = find_compiler()
    names = [name for name in _SETS if name == "portable" or platform.machine() in _X86]
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        built = [_compile(compiler, name, Path(temporary)) for name in names]
        return [library.replace(folder / library.name) for library in built]


def _compile(compiler: Sequence[str], name: str, folder: Path) -> Path:
    width, registers, flags = _SETS[name]
    library = folder / f"{name}.so"
    sizes = [f"-DWIDTH={width}", f"-DREGISTERS={registers}"]
    command = [*compiler, *FLAGS, *flags, *sizes, str(SOURCES / "program.cpp"), "-o", str(library)]
    # Not every compiler brings OpenMP; without it the kernels run on one thread.
    result = subprocess.run([*command, "-fopenmp"], capture_output=True, text=True)
    if result.returncode:
        result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        raise BuildError(f"{compiler[0]} failed for {name}: {result.stderr.strip()[-2000:]}")
    return library


def main() -> int:
    """Compile the kernels into the installed package."""
    try:
        for library in build_kernels(SOURCES):
            print(library)
    except (BuildError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
