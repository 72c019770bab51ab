"""Compiles the native kernels while Millet is installed or its wheel is built, where a compiler is there.

MILLET_NATIVE=off leaves them out; MILLET_NATIVE=required turns a failure into an error. Otherwise a failure is a
warning, and Millet is pure Python.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from packaging.tags import sys_tags


class NativeKernels(BuildHookInterface[Any]):
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        wanted = os.environ.get("MILLET_NATIVE", "")
        if wanted not in ("", "off", "required"):
            raise ValueError(f"MILLET_NATIVE={wanted} is unknown; set off or required, or unset it")
        if wanted == "off":
            return
        sys.path.insert(0, self.root)  # of Millet's own only what needs nothing but the standard library
        from millet.errors import MilletError
        from millet.kernels.native.build import build

        try:
            library = build()
        except MilletError as error:
            if wanted == "required":
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
