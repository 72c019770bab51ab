"""Matrix products of the model: y = x W^T + b for one or several weights that share their input.

For inference on a CPU weights are packed, which replaces the plain ones, so memory does not grow. Two ways:

- for the native kernels (matrix.py), in fp32 or quantised; their products serve `Rows` (record.py) and tensors alike.
- for oneDNN, where there are no native kernels. Plain PyTorch hands small products to a general BLAS, which reaches
  half the memory bandwidth at one row and less at four; oneDNN with a weight laid out beforehand reaches nearly all of
  it (measured: dev/LOG.md). These have no gradient.

Packing is undone exactly, but for quantised weights, which give the values that they stand for.
Each output row of a packed product is the same, bit for bit, whatever the other rows.

Shape legend: T rows, D input width, F output width.
"""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from millet.kernels import gradients, ops
from millet.kernels.low_rank import LowRank
from millet.kernels.matrix import GROUP, Matrix
from millet.kernels.native.abi import Format
from millet.kernels.native.library import library

BLOCKING_ROWS = 32
"""The row count that oneDNN is told to lay weights out for. 1 would give a layout that is slow for all others."""
LONE_ROW_LIMIT = 1024
"""Up to this input width, oneDNN's product of one row sums in the same order as a product of many."""


def can_pack(weight: Tensor) -> bool:
    """Whether a packed product serves this weight: fp32 on a CPU, and kernels for it."""
    return weight.device.type == "cpu" and weight.dtype == torch.float32 and (native() or onednn())


def native() -> bool:
    return library() is not None


def onednn() -> bool:
    return torch.backends.mkldnn.is_available()


class LinearGroup:
    """Linear modules of `owner` that share their input, computed in one product when packed.

    Not itself a module: the weights keep their own names (`q_proj`, `k_proj`, ...) in the owner's state. fine: where
    weights are quantised, so are activations, and these particularly finely: it costs a sixth of the product's time.
    """

    def __init__(self, owner: nn.Module, *names: str, fine: bool = False) -> None:
        self.owner = owner
        self.names = names
        self.fine = fine
        self._packed: Tensor | None = None  # oneDNN's
        self._bias: Tensor | None = None
        self._widths: list[int] = []
        self._matrices: list[Matrix] | None = None  # the native kernels'
        self._adopted: dict[int, Matrix] = {}
        self._copies: list[tuple[_Stamp, Matrix]] = []  # of plain weights, for `Rows`
        self._copied_as = Format.F32
        self._low_rank: tuple[list[_Stamp], LowRank] | None = None  # of adapters beside packed weights

    @property
    def packed(self) -> bool:
        return self._packed is not None or self._matrices is not None

    @property
    def nbytes(self) -> int:
        """Of the packed weights."""
        if self._packed is not None:
            return int(torch.ops.mkldnn._nbytes(self._packed))
        return sum(matrix.nbytes for matrix in self._matrices or ())

    @property
    def modules(self) -> list[Any]:
        """The modules as they are now: whoever replaces one of them (an adapter, say) is heard."""
        return [getattr(self.owner, name) for name in self.names]

    def __call__(self, x_TD: Any) -> tuple[Any, ...]:
        """One output [T, F] for each module, in order."""
        if not isinstance(x_TD, Tensor):
            return self.on_rows(x_TD)
        packed_FD, matrices = self._packed, self._matrices  # read once: another thread may unpack meanwhile
        if matrices is not None:
            weights = [_summed(m.unpack(), adapter) for m, adapter in zip(matrices, self._adapters(), strict=True)]
            return tuple(F.linear(x_TD, w, b) for w, b in zip(weights, self._biases(), strict=True))
        if packed_FD is None:
            return self._plain(x_TD)
        y_TF = _product(x_TD, packed_FD, self._bias)
        return (y_TF,) if len(self._widths) == 1 else y_TF.split(self._widths, dim=-1)

    def on_rows(self, x: Any) -> tuple[Any, ...]:
        """The native products: of packed weights, or of plain ones that are packed on the way and stay."""
        adapters = self._adapters()
        if self._matrices is not None and any(adapters):
            low_rank = self._packed_adapters(adapters)
            return ops.adapted_products(x, self._matrices, self._biases(), adapters, low_rank, self.fine)
        if self._matrices is not None:
            return ops.products(x, self._matrices, self._biases(), [None] * len(self.names), self.fine)
        weights = [adapted or module.weight for adapted, module in zip(adapters, self.modules, strict=True)]
        return ops.products(x, self.matrices(), self._biases(), weights, self.fine)

    def matrices(self) -> list[Matrix]:
        """The weights as the native kernels take them. Copies of plain ones are made anew when these have changed."""
        if self._matrices is not None:
            return self._matrices
        weights = [module.weight for module in self.modules]
        known = [stamp for stamp, _ in self._copies]
        if not _all_fit(known, weights):
            self._copies = [(_Stamp(weight), Matrix.pack(weight, self._copied_as)) for weight in weights]
        return [matrix for _, matrix in self._copies]

    def copy_as(self, format: Format) -> None:
        """In which format copies of plain weights are made, where their width is one that it can have."""
        fits = format < Format.Q8 or all(module.weight.shape[1] % GROUP == 0 for module in self.modules)
        self._copied_as = format if fits else Format.F32
        self._copies = []

    def forget_copies(self) -> None:
        """Of plain weights; they are made anew when they are needed."""
        self._copies = []

    def packed_at(self, index: int) -> Matrix | None:
        """The native layout of one of the weights, if it is packed so."""
        return None if self._matrices is None else self._matrices[index]

    def adopt(self, index: int, matrix: Matrix) -> None:
        """Take a weight in the native layout straight from a file; the module never has it in plain form."""
        self._adopted[index] = matrix

    def pack(self, choose: Callable[[Any], Format] = lambda module: Format.F32) -> None:
        """Lay the weights out for inference and let go of the plain ones. Where that is not possible, nothing changes.

        `choose` says in which format the native kernels should have a module's weight.
        """
        modules = self._bases()
        plain = [m for i, m in enumerate(modules) if i not in self._adopted]
        if self.packed or not all(can_pack(module.weight) for module in plain):
            return
        if native():
            self._copies = []
            self._matrices = [
                self._adopted.get(i) or Matrix.pack(module.weight, choose(module)) for i, module in enumerate(modules)
            ]
            self._adopted = {}
        else:
            self._pack_onednn(modules)
        for module in modules:
            module.weight = nn.Parameter(torch.empty(0), requires_grad=False)

    def _pack_onednn(self, modules: list[Any]) -> None:
        with torch.no_grad():
            self._widths = [m.weight.shape[0] for m in modules]
            weight_FD = modules[0].weight if len(modules) == 1 else torch.cat([m.weight for m in modules])
            self._packed = torch.ops.mkldnn._reorder_linear_weight(weight_FD.detach(), BLOCKING_ROWS)
            biases = [bias for bias in self._biases() if bias is not None]
            self._bias = torch.cat(biases) if biases else None

    def unpack(self) -> None:
        """Back to plain weights."""
        if self._matrices is not None:
            parts = [matrix.unpack() for matrix in self._matrices]
        elif self._packed is not None:
            weight_FD = self._packed.to_dense()
            parts = [part.clone() if len(self._widths) > 1 else part for part in weight_FD.split(self._widths)]
        else:
            return
        for module, part in zip(self._bases(), parts, strict=True):
            module.weight = nn.Parameter(part)
        self._packed = self._matrices = None

    def _plain(self, x_TD: Tensor) -> tuple[Tensor, ...]:
        modules = self.modules
        if gradients.by_hand(x_TD) and all(type(module) is nn.Linear for module in modules):
            return gradients.linear(x_TD, [module.weight for module in modules], self._biases())
        return tuple(module(x_TD) for module in modules)

    def _biases(self) -> list[Tensor | None]:
        return [getattr(module, "bias", None) for module in self.modules]

    def _adapters(self) -> list[gradients.Adapted | None]:
        return [getattr(module, "adapted", None) for module in self.modules]

    def _bases(self) -> list[Any]:
        """The modules that hold the weights: of adapted ones, those inside."""
        return [getattr(module, "base", module) for module in self.modules]

    def _packed_adapters(self, adapters: list[gradients.Adapted | None]) -> LowRank:
        """Made anew when the factors have changed."""
        factors = [factor for each in adapters if each for factor in (each.a_RD, each.b_FR)]
        known = self._low_rank
        if known is None or not _all_fit(known[0], factors):
            known = self._low_rank = [_Stamp(factor) for factor in factors], LowRank.pack(adapters)
        return known[1]


def _summed(weight_FD: Tensor, adapter: gradients.Adapted | None) -> Tensor:
    return weight_FD if adapter is None else weight_FD.addmm_(adapter.b_FR, adapter.a_RD, alpha=adapter.scale)


class _Stamp:
    """Which tensor a copy was made of, and which state of it. (Writing through `.data` is seen by nobody.)"""

    def __init__(self, weight: Tensor) -> None:
        self._weight = weakref.ref(weight)  # not its id: another tensor may get that when this one is gone
        self._version = weight._version

    def fits(self, weight: Tensor) -> bool:
        return self._weight() is weight and self._version == weight._version


def _all_fit(stamps: list[_Stamp], weights: list[Tensor]) -> bool:
    return len(stamps) == len(weights) and all(map(_Stamp.fits, stamps, weights))


class WeightGroup(LinearGroup):
    """Products with the weight of a module that is not itself a linear layer: a router's, an embedding's."""

    def _plain(self, x_TD: Tensor) -> tuple[Tensor, ...]:
        return tuple(F.linear(x_TD, module.weight.to(x_TD.dtype)) for module in self.modules)


class Table(WeightGroup):
    """An embedding table, read row by row in place; and the output head as well where the two are tied."""

    def __init__(self, owner: nn.Module, name: str, head: bool = True) -> None:
        super().__init__(owner, name, fine=True)
        self.head = head
        self._rows: Tensor | None = None

    def _pack_onednn(self, modules: list[Any]) -> None:
        table = modules[0].weight
        if not self.head:
            return
        super()._pack_onednn(modules)
        assert self._packed is not None
        self._rows = _blocked_view(self._packed)
        probe = torch.linspace(0, table.shape[0] - 1, 64, device=table.device).long()
        if self._rows is None or not torch.equal(self.embed(probe), table.detach()[probe]):
            self._rows = self._packed = None  # a oneDNN that lays weights out in another way

    def pack(self, choose: Callable[[Any], Format] = lambda module: Format.F32) -> None:
        if native() or self.head:
            table = self.modules[0].weight
            super().pack(choose)
            if not self.packed:
                self.modules[0].weight = table

    def unpack(self) -> None:
        super().unpack()
        self._rows = None

    def embed(self, ids_T: Any) -> Any:
        """Rows [T, D] of the table."""
        if not isinstance(ids_T, Tensor):
            weight = None if self._matrices is not None else self.modules[0].weight
            return ops.embed(ids_T, self.matrices()[0], weight)
        packed_FD, rows, matrices = self._packed, self._rows, self._matrices
        if matrices is not None:
            return matrices[0].rows(ids_T)
        if packed_FD is None or rows is None:
            return self.modules[0](ids_T)
        return rows[ids_T // BLOCK, : packed_FD.shape[1], ids_T % BLOCK]


class HeadGroup:
    """One product per attention head, with parts of a larger weight: `part(weight)` gives them as [H, F, D]."""

    def __init__(self, owner: nn.Module, name: str, part: Callable[[Tensor], Tensor]) -> None:
        self.owner = owner
        self.name = name
        self.part = part
        self._copies: tuple[_Stamp, list[Matrix]] | None = None

    def __call__(self, x_THD: Any) -> Any:
        weight = getattr(self.owner, self.name).weight
        if isinstance(x_THD, Tensor):
            return ops.head_products(x_THD, self.part(weight), None)
        return ops.head_products(x_THD, self.part(weight), self._matrices(weight))

    def _matrices(self, weight: Tensor) -> list[Matrix]:
        if self._copies is None or not self._copies[0].fits(weight):
            self._copies = (_Stamp(weight), [Matrix.pack(head_FD) for head_FD in self.part(weight).detach()])
        return self._copies[1]


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
