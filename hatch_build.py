"""What is made while Millet is installed or packed: the native kernels, and the web app.

The kernels are compiled where a compiler is there. MILLET_NATIVE=off leaves them out; MILLET_NATIVE=required turns a
failure into an error. Otherwise a failure is a warning, and Millet is pure Python.

The web app is built unless that has been done (`make web`). No wheel and no sdist lacks it silently: a failure is an
error, and only MILLET_WEB=off leaves it out. An editable installation takes it from the source tree, built or not.
"""

from __future__ import annotations

import importlib
import os
import sys
from types import ModuleType
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from packaging.tags import sys_tags


class BuiltParts(BuildHookInterface[Any]):
    def dependencies(self) -> list[str]:
        """What building needs besides, of the package index: Node.js, where the app is not built yet."""
        if _wanted("MILLET_WEB") == "off":
            return []
        web = self._own("scripts.web")
        return [] if web.is_current() or web.node() else [web.NODE]

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version != "editable" and _wanted("MILLET_WEB") != "off":
            self._own("scripts.web").build()
            build_data["artifacts"].append("/millet/serve/web/")
        if self.target_name == "wheel" and _wanted("MILLET_NATIVE") != "off":
            self._compile_kernels(version, build_data)

    def _own(self, module: str) -> ModuleType:
        """A module of the source tree that needs nothing but the standard library."""
        if self.root not in sys.path:
            sys.path.insert(0, self.root)
        return importlib.import_module(module)

    def _compile_kernels(self, version: str, build_data: dict[str, Any]) -> None:
        try:
            library = self._own("millet.kernels.native.build").build()
        except self._own("millet.errors").MilletError as error:
            if _wanted("MILLET_NATIVE") == "required":
                raise
            self.app.display_warning(f"native kernels are left out: {error}")
            return
        if version == "editable":
            return  # the library is where it was compiled, beside its sources
        # The library needs no particular Python, so only the platform is named; a bare linux tag, as the system's own
        # C++ runtime is used.
        platform = next(tag.platform for tag in sys_tags() if not tag.platform.startswith(("manylinux", "musllinux")))
        build_data["tag"] = f"py3-none-{platform}"
        build_data["pure_python"] = False
        build_data["artifacts"].append(f"millet/kernels/native/{library.name}")


def _wanted(setting: str) -> str:
    value = os.environ.get(setting, "")
    if value not in ("", "off", "required"):
        raise ValueError(f"{setting}={value} is unknown; set off or required, or unset it")
    return value
