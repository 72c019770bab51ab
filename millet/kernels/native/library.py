"""Find and open the compiled kernels, or say why PyTorch computes everything instead.

MILLET_KERNELS chooses: `off` leaves the library alone; the name of a variant forces that one. MILLET_NATIVE_LIBRARY
names another library than the one beside this file, such as one made for a sanitizer. What was asked for by name and
cannot be had is an error; without such wishes a missing library is a fact that `why_not` puts into words.
"""

from __future__ import annotations

import ctypes
import os
from functools import cache
from pathlib import Path

from millet.errors import KernelsUnavailable
from millet.kernels.native.build import COMPILE, VARIANTS, compiler, is_current, library_path


def library() -> ctypes.CDLL | None:
    """The native kernels, opened once; None where there are none, and `why_not` knows why."""
    found = _open()
    return None if isinstance(found, str) else found


def why_not() -> str | None:
    """Why there are no native kernels and what to do, for a person to read; None where there are."""
    found = _open()
    return found if isinstance(found, str) else None


def variant() -> str | None:
    """The instruction set that the native kernels use on this processor."""
    found = library()
    return _variant(found) if found else None


@cache
def _open() -> ctypes.CDLL | str:
    forced, given = os.environ.get("MILLET_KERNELS", ""), os.environ.get("MILLET_NATIVE_LIBRARY", "")
    if forced == "off":
        return "MILLET_KERNELS=off; unset it to use the native kernels"
    if forced and forced not in VARIANTS:
        raise KernelsUnavailable(f"MILLET_KERNELS={forced} is unknown here; set off or one of {', '.join(VARIANTS)}")
    path = Path(given).resolve() if given else library_path()
    found = _load(path)
    if isinstance(found, str):
        if forced or given:
            asked = f"MILLET_KERNELS={forced}" if forced else f"MILLET_NATIVE_LIBRARY={given}"
            raise KernelsUnavailable(f"{asked} cannot be had: {found}")
        return found
    if forced not in ("", _variant(found)) or not _variant(found):
        raise KernelsUnavailable(
            f"MILLET_KERNELS={forced} is not for this processor, or its compiler did not know it; unset it"
        )
    return found


def _load(path: Path) -> ctypes.CDLL | str:
    if not path.exists():
        if path != library_path():
            return "there is no such file"
        if compiler() is None:
            return f"no C++ compiler; install one (on Debian or Ubuntu: apt install g++), then run {COMPILE}"
        return f"not compiled yet; run {COMPILE}"
    if not is_current(path):
        return f"compiled from other sources than those here; run {COMPILE}"
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        return f"it does not load ({' '.join(str(error).split())}); delete {path}, then run {COMPILE}"


def _variant(opened: ctypes.CDLL) -> str:
    opened.millet_variant.restype = ctypes.c_char_p
    return (opened.millet_variant() or b"").decode()
