"""The helper threads behind PyTorch's parallel operations.

GNU's OpenMP keeps a pool of helpers for every thread that ever ran a parallel operation, and lets helpers wait actively
for the next one only while all pools together are no larger than the machine. A pool left behind by loading a model in
the main thread therefore makes every operation of the engine's thread start its helpers from sleep: measured on two
cores, 150-180 instead of 110 microseconds for a product of one row with a [960, 576] weight.
"""

from __future__ import annotations

import ctypes
from pathlib import Path

_PAUSE_SOFT = 1  # omp_pause_soft: threads go, settings stay


def release_helpers() -> None:
    """End the helper threads of the calling thread; its next parallel operation starts new ones.

    Does nothing where PyTorch runs on another OpenMP than GNU's, which has no such limit.
    """
    for library in _loaded("libgomp"):
        pause = getattr(ctypes.CDLL(library), "omp_pause_resource_all", None)
        if pause is not None:
            pause(_PAUSE_SOFT)


def _loaded(name: str) -> set[str]:
    """Files of this name that are mapped into the process. Wheels rename their copy, so it cannot be asked for."""
    try:
        maps = Path("/proc/self/maps").read_text().splitlines()
    except OSError:
        return set()
    paths = {line.split(maxsplit=5)[5] for line in maps if line.count("/")}
    return {path for path in paths if Path(path).name.startswith(name)}
