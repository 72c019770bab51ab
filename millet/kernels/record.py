"""What a model's forward is made of when the native kernels run it: steps over rows.

The model's modules are written once, against the functions of ops.py. Given tensors, these compute with PyTorch. Given
`Rows`, they describe each operation as a `Step` and hand it to the rows' recorder: a `Trace` (plan.py) keeps the
steps of a whole forward, to be run in one native call each time; an `Eager` one (eager.py) runs a step at once, under
autograd. The kernels are the same, and so are the bits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from torch import Tensor

from millet.kernels.matrix import Matrix
from millet.kernels.native import abi
from millet.kernels.native.abi import Code, Prepare


class Rows(Protocol):
    """One row of fp32 numbers for each token: [width], or [heads, width]. Also has the few methods of a tensor that
    models use: `flatten(1)`, `unflatten(-1, sizes)`, `split(widths, -1)`, `[:, None]` and `+`."""

    @property
    def recorder(self) -> Recorder: ...
    @property
    def sizes(self) -> tuple[int, ...]: ...
    @property
    def group_stride(self) -> int:
        """Numbers from one head to the next."""
        ...


class Recorder(Protocol):
    def new(self, *sizes: int, like: Any = None) -> Any:
        """Rows to write to; over the rows of `like` where those are fewer than the batch's."""
        ...

    def emit(self, step: Step) -> None: ...

    def apply(
        self,
        build: Callable[..., Any],
        rows: Sequence[Any],
        parameters: Sequence[Tensor],
        reference: Callable[..., Any],
    ) -> Any:
        """`build(*rows)`, which emits steps and gives rows, or a tuple of them. `reference(*rows, *parameters)` is it
        in PyTorch, for the gradient."""
        ...


@dataclass(frozen=True)
class Product:
    """y = matrix x + bias + add. `x` and `y` are [inputs] and [outputs] wide."""

    matrix: Matrix
    x: Any
    y: Any
    bias: Tensor | None = None
    add: Any = None


@dataclass(frozen=True)
class Step:
    """One native operation; native/src/abi.h says what `n`, `f` and the weights mean for each code.

    `layer` is the cache layer of an ATTEND. Weights are fp32 and contiguous.
    """

    code: Code
    inputs: tuple[Any, ...] = ()
    outputs: tuple[Any, ...] = ()
    products: tuple[Product, ...] = ()
    weights: tuple[Tensor | None, ...] = ()
    n: dict[int, int] = field(default_factory=dict)
    f: float = 0.0
    layer: int | None = None

    @property
    def prepare(self) -> Prepare:
        return Prepare(self.n.get(7, 0)) if self.code is Code.PRODUCTS else Prepare.NOTHING

    @property
    def label(self) -> str:
        """What it does, for a profile: `norm, products 1536+1536 x 576 q4_1`."""
        before = "" if self.prepare is Prepare.NOTHING else f"{self.prepare.name.lower()}, "
        after = ", add" if any(product.add is not None for product in self.products) else ""
        if not self.products:
            return self.code.name.lower()
        matrices = [product.matrix for product in self.products[:3]]
        outputs = "+".join(str(matrix.shape[0]) for matrix in matrices) + ("..." if len(self.products) > 3 else "")
        kind = f"{outputs} x {matrices[0].shape[1]} {matrices[0].format.name.lower()}"
        return f"{before}{self.code.name.lower()} {kind}{after}"

    def reads(self) -> list[Any]:
        """Rows that the step reads; a prepared product reads its inputs instead of its x."""
        own = [] if self.prepare else [product.x for product in self.products if product.x is not None]
        return [*self.inputs, *own, *(product.add for product in self.products if product.add is not None)]

    def writes(self) -> list[Any]:
        return [*self.outputs, *(product.y for product in self.products if product.y is not None)]

    def changed(self, **fields: Any) -> Step:
        return replace(self, **fields)


NOWHERE = abi.Rows(None, 0)


def to_native(step: Step, place: Callable[[Any], abi.Rows]) -> tuple[abi.Op, list[Any]]:
    """The step as the kernels take it, `place` giving the address of rows; and what must outlive it."""
    op = abi.Op()
    op.code = step.code
    keep: list[Any] = [step]
    if step.products:
        items = [
            abi.Product(
                product.matrix.raw,
                NOWHERE if product.x is None or step.prepare else place(product.x),
                NOWHERE if product.y is None else place(product.y),
                None if product.bias is None else product.bias.data_ptr(),
                NOWHERE if product.add is None else place(product.add),
            )
            for product in step.products
        ]
        array = (abi.Product * len(items))(*items)
        op.num_products, op.products = len(items), array
        keep.append(array)
    for i, rows in enumerate(step.inputs):
        op.inputs[i] = place(rows)
    for i, rows in enumerate(step.outputs):
        op.outputs[i] = place(rows)
    for i, weight in enumerate(step.weights):
        op.weight[i] = None if weight is None else weight.data_ptr()
    for i, number in step.n.items():
        op.n[i] = number
    op.f[0] = step.f
    return op, keep
