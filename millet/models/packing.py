"""In which format each weight is kept for the native kernels: as the file has it, or quantised at load.

- by default a matrix stays in its file's precision. GGUF's Q8_0, Q4_0, Q4_1 and F16 are computed with as they are; its
  other quantised types become 8-bit, which adds at most 1/254 of a group's largest weight to the error they have.
- "q8" and "q4" quantise what the file has in floats. With q4 the embedding and the output head are 8-bit: they decide
  directly between tokens, and are where four bits hurt most.
- "off": everything in fp32.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from millet.errors import BadRequest
from millet.kernels.linear import native
from millet.kernels.matrix import GGUF_FORMATS, GROUP, SIZES, Matrix
from millet.kernels.native.abi import Format
from millet.models.moe import Router
from millet.models.network import Network
from millet.models.weights import Weights, group_places

Quantize = Literal["q8", "q4", "off"]
CHOICES = ("q8", "q4", "off")
FLOATS = ("F32", "F16", "BF16", "F8_E4M3")
ENDS = ("model.embed_tokens.weight", "lm_head.weight")


def choose_formats(network: Network, weights: Weights, quantize: Quantize | None) -> dict[str, Format]:
    """The format of every weight that is not to be fp32, by name."""
    if quantize is not None and quantize not in CHOICES:
        raise BadRequest(f"quantize {quantize!r} is unknown; use {', '.join(CHOICES)}")
    if quantize == "off" or not native():
        return {}
    places = {name: place for name, place in group_places(network).items() if name in weights.shapes}
    found = {name: _format(name, module, weights, quantize) for name, (_, _, module) in places.items()}
    return {name: format for name, format in found.items() if format is not Format.F32}


def _format(name: str, module: Any, weights: Weights, quantize: Quantize | None) -> Format:
    kind, shape = weights.kind(name), weights.shapes[name]
    if isinstance(module, Router) or len(shape) != 2:
        return Format.F32  # small, and what it decides is discrete
    wanted = Format.Q8 if quantize == "q8" or name in ENDS else Format.Q4_0
    stored = GGUF_FORMATS.get(kind, Format.F32 if kind in FLOATS else Format.Q8)
    narrow = stored in (Format.Q4_0, Format.Q4_1) or (stored is Format.Q8 and wanted is Format.Q8)
    format = stored if quantize is None or narrow else wanted
    return format if format < Format.Q8 or shape[1] % GROUP == 0 else Format.F32


def packed_bytes(shapes: Mapping[str, tuple[int, ...]], formats: Mapping[str, Format], itemsize: int) -> int:
    """Memory for all weights: those with a format in it, the others at `itemsize` bytes a number."""
    total = 0.0
    for name, shape in shapes.items():
        count = 1
        for size in shape:
            count *= size
        total += count * (SIZES[formats[name]] if name in formats else itemsize)
    return int(total)


def packed_matrices(network: Network, formats: Mapping[str, Format]) -> dict[str, Matrix]:
    """The packed weights of these names."""
    places = group_places(network)
    found = {name: places[name][0].packed_at(places[name][1]) for name in formats}
    return {name: matrix for name, matrix in found.items() if matrix is not None}
