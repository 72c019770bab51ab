"""Matrix products of the model: y = x W^T + b for one or several weights that share their input.

Plain PyTorch hands small products to a general BLAS, which reaches half the memory bandwidth of a CPU at one row and
less at four. oneDNN with a weight that was laid out for it beforehand reaches nearly all of it, and one layout serves
every number of rows (measured: dev/LOG.md). Packing replaces the plain weight, so memory does not grow; it is exact to
undo. Packed products have no gradient: training runs on plain weights, through the same modules.

Each output row of a packed product is the same, bit for bit, whatever the other rows: see `_product`.

Shape legend: T rows, D input width, F output width.
"""

from __future__ import annotations

import ctypes
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BLOCKING_ROWS = 32
"""The row count that oneDNN is told to lay weights out for. 1 would give a layout that is slow for all others."""
LONE_ROW_LIMIT = 1024
"""Up to this input width, a product of one row sums in the same order as a product of many."""


def can_pack(weight: Tensor) -> bool:
    """Whether oneDNN's packed products serve this weight: fp32 on a CPU that PyTorch was built with oneDNN for."""
    return weight.device.type == "cpu" and weight.dtype == torch.float32 and torch.backends.mkldnn.is_available()


class LinearGroup:
    """Linear modules of `owner` that share their input, computed in one product when packed.

    Not itself a module: the weights keep their own names (`q_proj`, `k_proj`, ...) in the owner's state.
    """

    def __init__(self, owner: nn.Module, *names: str) -> None:
        self.owner = owner
        self.names = names
        self._packed: Tensor | None = None
        self._bias: Tensor | None = None
        self._widths: list[int] = []

    @property
    def packed(self) -> bool:
        return self._packed is not None

    @property
    def modules(self) -> list[Any]:
        """The modules as they are now: whoever replaces one of them (an adapter, say) is heard."""
        return [getattr(self.owner, name) for name in self.names]

    def __call__(self, x_TD: Tensor) -> tuple[Tensor, ...]:
        """One output [T, F] for each module, in order."""
        packed_FD = self._packed  # read once: another thread may unpack meanwhile
        if packed_FD is None:
            return tuple(module(x_TD) for module in self.modules)
        y_TF = _product(x_TD, packed_FD, self._bias)
        return (y_TF,) if len(self._widths) == 1 else y_TF.split(self._widths, dim=-1)

    def pack(self) -> None:
        """Lay the weights out for oneDNN and let go of the plain ones. Where that is not possible, nothing changes."""
        modules = self.modules
        if self._packed is not None or not all(can_pack(module.weight) for module in modules):
            return
        with torch.no_grad():
            self._widths = [m.weight.shape[0] for m in modules]
            weight_FD = modules[0].weight if len(modules) == 1 else torch.cat([m.weight for m in modules])
            self._packed = torch.ops.mkldnn._reorder_linear_weight(weight_FD.detach(), BLOCKING_ROWS)
            biases = [m.bias for m in modules if getattr(m, "bias", None) is not None]
            self._bias = torch.cat(biases) if biases else None
        for module in modules:
            module.weight = nn.Parameter(module.weight.new_empty(0), requires_grad=False)

    def unpack(self) -> None:
        """Back to plain weights, bit for bit."""
        if self._packed is None:
            return
        weight_FD = self._packed.to_dense()
        for module, part in zip(self.modules, weight_FD.split(self._widths), strict=True):
            module.weight = nn.Parameter(part.clone() if len(self._widths) > 1 else part)
        self._packed = None


class TiedHead(LinearGroup):
    """An embedding table that is also the output head, kept once: packed for the product, read row by row in place."""

    def __init__(self, owner: nn.Module, name: str) -> None:
        super().__init__(owner, name)
        self._rows: Tensor | None = None

    def __call__(self, x_TD: Tensor) -> tuple[Tensor, ...]:
        packed_FD = self._packed
        if packed_FD is None:
            return (F.linear(x_TD, self.modules[0].weight),)
        return (_product(x_TD, packed_FD, None),)

    def pack(self) -> None:
        table = self.modules[0].weight
        super().pack()
        if self._packed is None or self._rows is not None:
            return
        self._rows = _blocked_view(self._packed)
        probe = torch.linspace(0, table.shape[0] - 1, 64, device=table.device).long()
        if self._rows is None or not torch.equal(self.embed(probe), table.detach()[probe]):
            self._rows = None
            self.unpack()  # a oneDNN that lays weights out in another way

    def unpack(self) -> None:
        super().unpack()
        self._rows = None

    def embed(self, ids_T: Tensor) -> Tensor:
        """Rows [T, D] of the table."""
        packed_FD, rows = self._packed, self._rows
        if packed_FD is None or rows is None:
            return self.modules[0](ids_T)
        return rows[ids_T // BLOCK, : packed_FD.shape[1], ids_T % BLOCK]


BLOCK = 64  # outputs that oneDNN interleaves


def _blocked_view(packed_FD: Tensor) -> Tensor | None:
    """The packed weight's memory as [ceil(F / 64), D padded to 16, 64], in place; None if it has another size."""
    count = torch.ops.mkldnn._nbytes(packed_FD) // 4
    blocks = -(-packed_FD.shape[0] // BLOCK)
    if count % (blocks * BLOCK) or count // (blocks * BLOCK) < packed_FD.shape[1]:
        return None
    memory = (ctypes.c_float * count).from_address(torch.ops.mkldnn.data_ptr(packed_FD))
    return torch.frombuffer(memory, dtype=torch.float32).view(blocks, -1, BLOCK)


def _product(x_TD: Tensor, packed_FD: Tensor, bias_F: Tensor | None) -> Tensor:
    """x W^T + b. A lone wide row would be split along D and summed in another order, so it goes in company."""
    lone = x_TD.shape[0] == 1 and x_TD.shape[1] > LONE_ROW_LIMIT
    x_TD = x_TD.expand(2, -1) if lone else x_TD
    y_TF = torch.ops.mkldnn._linear_pointwise(x_TD, packed_FD, bias_F, "none", [], "")
    return y_TF[:1] if lone else y_TF
