"""Compiles the kernels for sparse inference when the package is built; without a compiler it is built without them."""

from __future__ import annotations

import importlib.util
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

BUILDING = Path(__file__).parent / "src" / "sparsewright" / "runtime" / "building.py"


class KernelsBuildHook(BuildHookInterface):
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Into the sources for an editable installation, else into the wheel, which is then for such machines."""
        building = _building()
        editable = version == "editable"
        self._folder = None if editable else tempfile.TemporaryDirectory()
        folder = building.SOURCES if self._folder is None else Path(self._folder.name)
        try:
            libraries = building.build_kernels(folder)
        except (building.BuildError, OSError) as error:
            self.app.display_warning(f"sparse inference will use torch, its kernels were not compiled: {error}")
            return
        if not editable:
            build_data["force_include"] |= {
                str(library): f"sparsewright/runtime/kernels/{library.name}" for library in libraries
            }
            build_data["pure_python"] = False
            system = sysconfig.get_platform().replace("-", "_").replace(".", "_")
            build_data["tag"] = f"py3-none-{system}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        if self._folder is not None:
            self._folder.cleanup()


def _building() -> Any:
    specification = importlib.util.spec_from_file_location("building", BUILDING)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module
