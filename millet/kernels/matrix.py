"""Weights packed for the native kernels: fp32, fp16, 8-bit or 4-bit, in panels of 16 outputs.

native/src/layout.h says how a panel lies in memory. A `Matrix` is made from fp32 values, quantised on the way if asked
to, or from the bytes of a GGUF tensor of the same kind, which are only moved. It can be read back as fp32, exactly as
the kernels see it.

Shape legend: F outputs, K inputs.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from millet.kernels.native import abi
from millet.kernels.native.abi import Format
from millet.kernels.threads import native_threads

PANEL = 16  # outputs that lie side by side
GROUP = 32  # inputs that share a scale in the quantised formats

# Bytes of one weight, scales included.
SIZES = {Format.F32: 4.0, Format.F16: 2.0, Format.Q8: 34 / 32, Format.Q4_0: 18 / 32, Format.Q4_1: 20 / 32}

# GGUF's types that have a packed twin, value for value.
GGUF_FORMATS = {"F32": Format.F32, "F16": Format.F16, "Q8_0": Format.Q8, "Q4_0": Format.Q4_0, "Q4_1": Format.Q4_1}


def matrix_bytes(format: Format, outputs: int, inputs: int) -> int:
    """The size of a packed matrix."""
    size: int = abi.functions().millet_matrix_bytes(format, outputs, inputs)
    return size


class Matrix:
    """[F, K] in the native layout. `raw` is what the kernels are given; `memory` has the bytes, at a multiple of 64."""

    def __init__(self, format: Format, outputs: int, inputs: int, memory: Tensor | None = None) -> None:
        if format >= Format.Q8 and inputs % GROUP:
            raise ValueError(f"{inputs} inputs are no multiple of {GROUP}")
        self.format = format
        self.shape = (outputs, inputs)
        self.memory = _aligned(matrix_bytes(format, outputs, inputs)) if memory is None else memory
        self.raw = abi.Matrix(self.memory.data_ptr(), format, outputs, inputs, 0)

    @property
    def nbytes(self) -> int:
        return self.memory.numel()

    @classmethod
    def pack(cls, weight_FK: Tensor, format: Format = Format.F32) -> Matrix:
        """From values of any floating type; the quantised formats round them (like GGUF's Q8_0 and Q4_0)."""
        if format is Format.Q4_1:
            raise ValueError("4 bits with an offset come from a file only; Q4_0 is what fp32 is rounded to")
        weight_FK = weight_FK.detach().float()
        weight_FK = weight_FK if weight_FK.stride(1) == 1 else weight_FK.contiguous()
        matrix = cls(format, *weight_FK.shape)
        abi.functions().millet_pack(weight_FK.data_ptr(), weight_FK.stride(0), matrix.raw, native_threads())
        return matrix

    @classmethod
    def from_gguf(cls, raw: Tensor, kind: str, shape: tuple[int, int], source_F: Tensor | None = None) -> Matrix:
        """From the bytes of a GGUF tensor. Output r is the tensor's row source_F[r] (int64), or r."""
        matrix = cls(GGUF_FORMATS[kind], *shape)
        source = None if source_F is None else source_F.contiguous()
        abi.functions().millet_pack_gguf(
            raw.data_ptr(),
            raw.numel() // shape[0],
            None if source is None else source.data_ptr(),
            matrix.raw,
            native_threads(),
        )
        return matrix

    def __deepcopy__(self, memo: Any) -> Matrix:
        return self  # nobody writes to it any more, so copies of a network may share it

    def unpack(self, transposed: bool = False) -> Tensor:
        """fp32 [F, K], or [K, F] transposed: the values that the kernels multiply with."""
        out = torch.empty(self.shape[::-1] if transposed else self.shape)
        abi.functions().millet_unpack(self.raw, out.data_ptr(), int(transposed), native_threads())
        return out

    def parts(self, numbers: int) -> Iterator[tuple[slice, Matrix]]:
        """Outputs and the matrix of them, from the first on: each of at most so many weights, or of one panel. They
        share this one's memory."""
        outputs, inputs = self.shape
        size = max(PANEL, numbers // inputs // PANEL * PANEL)
        panel_bytes = self.nbytes // -(-outputs // PANEL)
        for first in range(0, outputs, size):
            last = min(first + size, outputs)
            memory = self.memory[first // PANEL * panel_bytes : -(-last // PANEL) * panel_bytes]
            yield slice(first, last), Matrix(self.format, last - first, inputs, memory)

    def rows(self, ids_T: Tensor) -> Tensor:
        """Some of them, fp32 [T, K]."""
        ids = ids_T.to(torch.int32).contiguous()
        out_TK = torch.empty(len(ids), self.shape[1])
        product = abi.Product(self.raw)
        op = abi.Op(abi.Code.EMBED, 1, ctypes.pointer(product))
        op.outputs[0] = abi.Rows(out_TK.data_ptr(), out_TK.stride(0))
        batch = abi.Batch(len(ids), 0, 0, 1, ids.data_ptr())
        abi.functions().millet_run(op, 1, batch, None)
        return out_TK


class NativeProduct:
    """y = matrix x by itself, to measure or to test."""

    def __init__(self, matrix: Matrix, x_TK: Tensor, threads: int | None = None) -> None:
        self.y_TF = torch.empty(len(x_TK), matrix.shape[0])
        x, y = abi.Rows(x_TK.data_ptr(), x_TK.stride(0)), abi.Rows(self.y_TF.data_ptr(), self.y_TF.stride(0))
        self._product = abi.Product(matrix.raw, x, y)
        self._op = abi.Op(abi.Code.PRODUCTS, 1, ctypes.pointer(self._product))
        self._batch = abi.Batch(len(x_TK), 0, 0, threads or native_threads())
        self._keep = matrix, x_TK

    def run(self) -> Tensor:
        abi.functions().millet_run(self._op, 1, self._batch, None)
        return self.y_TF


def _aligned(size: int) -> Tensor:
    """Bytes at a multiple of 64."""
    memory = torch.empty(size + 63, dtype=torch.uint8)
    start = -memory.data_ptr() % 64
    return memory[start : start + size]
