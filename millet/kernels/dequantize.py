"""Quantised weights to fp32: the block formats of GGUF files, and the block-scaled FP8 of DeepSeek checkpoints.

A GGUF format packs a fixed number of values into a block of a fixed number of bytes: small integers, and fp16 scales
that hold for a group of them. Every format below unpacks to integers q, a scale and (some) an offset per group, and
value = q * scale + offset. The integers and the products are exact in fp32 and the sum is rounded once, so the result
has the bits of any other correct decoder. The layouts are those of ggml (github.com/ggml-org/ggml, ggml-common.h).

Callers pass pieces of a few hundred thousand values, so that temporaries stay inside the processor's cache.

Shape legend: N blocks, G groups of a block, P values of a group.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

Unpacked = tuple[Tensor, Tensor, Tensor | None]
"""Integers [N, G, P], scale and offset [N, G, 1] (or [N, 1, 1]) in fp32."""


@dataclass(frozen=True, slots=True)
class BlockFormat:
    """How one GGUF tensor type stores values: `values` of them in every `size` bytes."""

    values: int
    size: int
    unpack: Callable[[Tensor], Unpacked] | None = None  # None: the bytes are floats of type `dtype`
    dtype: torch.dtype = torch.uint8


def dequantize(raw: Tensor, kind: str, out: Tensor) -> None:
    """Decode the whole blocks in `raw` (uint8, 1-D) of format `kind` into `out` (fp32, contiguous, as many values)."""
    block = FORMATS[kind]
    if block.unpack is None:
        if raw.storage_offset() % block.size:
            raw = raw.clone()  # a view needs aligned bytes
        out.copy_(raw.view(block.dtype).view_as(out))
        return
    q_NGP, scale, offset = block.unpack(raw.view(-1, block.size))
    out_NGP = out.view(q_NGP.shape)
    torch.mul(q_NGP, scale, out=out_NGP)
    if offset is not None:
        out_NGP.add_(offset)


def dequantize_fp8_blocks(
    weight_RC: Tensor, scale: Tensor, out_RC: Tensor, block: tuple[int, int] = (128, 128)
) -> None:
    """DeepSeek's FP8: every `block` of the matrix has one factor; out = weight * scale (`weight_scale_inv` on disk).

    weight_RC: float8_e4m3fn; its first row must be the first row of a block. The last block of either axis may be
    ragged. scale: fp32 [ceil(R / block rows), ceil(C / block columns)]. out_RC: any floating type.
    """
    rows, columns = weight_RC.shape
    for i, scale_of_columns in enumerate(scale.float()):
        band = slice(i * block[0], min((i + 1) * block[0], rows))
        out_RC[band] = weight_RC[band].float() * scale_of_columns.repeat_interleave(block[1])[:columns]


def _half(raw: Tensor, start: int, count: int = 1) -> Tensor:
    """fp16 numbers at byte `start` of each block: fp32 [N, count, 1]."""
    return raw[:, start : start + 2 * count].contiguous().view(torch.float16).float()[:, :, None]


def _fields(raw: Tensor, shifts: tuple[int, ...], mask: int) -> Tensor:
    """Bit fields of every byte: uint8 [..., P] to [..., len(shifts), P].

    Four bytes at a time in 32-bit words: PyTorch's shift of single bytes is ten times slower.
    """
    words = raw.contiguous().view(torch.int32)
    mask *= 0x01010101
    return torch.stack([(words >> shift) & mask for shift in shifts], dim=-2).view(torch.uint8)


def _signed(q: Tensor, zero: int) -> Tensor:
    return q.view(torch.int8).sub_(zero)


def _nibbles(raw: Tensor, start: int) -> Tensor:
    """32 values in 16 bytes: the low halves, then the high halves. uint8 [N, 1, 32]."""
    return _fields(raw[:, start : start + 16], (0, 4), 15).view(-1, 1, 32)


def _fifth_bits(raw: Tensor, start: int) -> Tensor:
    """The upper bits of 32 five-bit values: bit i of four bytes belongs to value i. uint8 [N, 1, 32], 0 or 16."""
    bits_NP = np.unpackbits(raw[:, start : start + 4].numpy(), axis=1, bitorder="little")
    return torch.from_numpy(bits_NP).mul_(16)[:, None]


def _q8_0(raw: Tensor) -> Unpacked:
    return raw[:, None, 2:].view(torch.int8), _half(raw, 0), None


def _q4_0(raw: Tensor) -> Unpacked:
    return _signed(_nibbles(raw, 2), 8), _half(raw, 0), None


def _q4_1(raw: Tensor) -> Unpacked:
    return _nibbles(raw, 4), _half(raw, 0), _half(raw, 2)


def _q5_0(raw: Tensor) -> Unpacked:
    return _signed(_nibbles(raw, 6) | _fifth_bits(raw, 2), 16), _half(raw, 0), None


def _q5_1(raw: Tensor) -> Unpacked:
    return _nibbles(raw, 8) | _fifth_bits(raw, 4), _half(raw, 0), _half(raw, 2)


def _k_scales(raw: Tensor) -> tuple[Tensor, Tensor]:
    """Q4_K and Q5_K: two fp16 and twelve bytes hold eight six-bit scales and eight minima. Both fp32 [N, 8, 1].

    The first four of each lie in the low six bits of bytes 0-3 and 4-7; of the last four, the low half is in bytes
    8-11 and the two high bits are in the top of bytes 0-3 (scales) and 4-7 (minima).
    """
    low_N4, high_N4, rest_N4 = raw[:, 4:8], raw[:, 8:12], raw[:, 12:16]
    scale_N8 = torch.cat([low_N4 & 63, (rest_N4 & 15) | ((low_N4 >> 6) << 4)], dim=1)
    minimum_N8 = torch.cat([high_N4 & 63, (rest_N4 >> 4) | ((high_N4 >> 6) << 4)], dim=1)
    return _half(raw, 0) * scale_N8[:, :, None], -(_half(raw, 2) * minimum_N8[:, :, None])


def _q4_k(raw: Tensor) -> Unpacked:
    q_N8P = _fields(raw[:, 16:].view(-1, 4, 32), (0, 4), 15).view(-1, 8, 32)
    return q_N8P, *_k_scales(raw)


def _q5_k(raw: Tensor) -> Unpacked:
    low_N8P = _fields(raw[:, 48:].view(-1, 4, 32), (0, 4), 15).view(-1, 8, 32)
    high_N8P = _fields(raw[:, 16:48], tuple(range(8)), 1)
    return low_N8P | (high_N8P * 16), *_k_scales(raw)


def _q6_k(raw: Tensor) -> Unpacked:
    low_N8P = _fields(raw[:, :128].view(-1, 2, 64), (0, 4), 15).view(-1, 8, 32)
    high_N8P = _fields(raw[:, 128:192].view(-1, 2, 32), (0, 2, 4, 6), 3).view(-1, 8, 32)
    q = _signed(low_N8P | (high_N8P * 16), 32).view(-1, 16, 16)
    scale = _half(raw, 208) * raw[:, 192:208, None].view(torch.int8)
    return q, scale, None


FORMATS = {
    "F32": BlockFormat(1, 4, dtype=torch.float32),
    "F16": BlockFormat(1, 2, dtype=torch.float16),
    "BF16": BlockFormat(1, 2, dtype=torch.bfloat16),
    "Q8_0": BlockFormat(32, 34, _q8_0),
    "Q4_0": BlockFormat(32, 18, _q4_0),
    "Q4_1": BlockFormat(32, 20, _q4_1),
    "Q5_0": BlockFormat(32, 22, _q5_0),
    "Q5_1": BlockFormat(32, 24, _q5_1),
    "Q4_K": BlockFormat(256, 144, _q4_k),
    "Q5_K": BlockFormat(256, 176, _q5_k),
    "Q6_K": BlockFormat(256, 210, _q6_k),
}
"""The GGUF tensor types that Millet reads."""
