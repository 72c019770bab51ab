"""Millet: a reasoning system for the hardware people already have.

The public names are loaded on first use, so that `import millet` and `millet --help` do not pay for PyTorch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from millet.errors import MilletError

if TYPE_CHECKING:
    from millet.engine.engine import Engine
    from millet.engine.sampling import Sampling
    from millet.models.load import load
    from millet.reasoning.assistant import Assistant

__version__ = "0.1.0"
__all__ = ["Assistant", "Engine", "MilletError", "Sampling", "load"]

_HOMES = {
    "Assistant": "millet.reasoning.assistant",
    "Engine": "millet.engine.engine",
    "Sampling": "millet.engine.sampling",
    "load": "millet.models.load",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'millet' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value
