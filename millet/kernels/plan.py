"""A model's forward as a plan: traced once through the model's own code, fused, laid out in memory, run in one call.

    trace = Trace()
    hidden = network(trace.ids, TraceAttention(trace))     # the modules see `Symbol`s where tensors would be
    logits = network.head(hidden.picked())
    plan = Plan(trace, hidden=hidden, logits=logits)
    runner = plan.bind(cache, max_rows=256, max_sampled=64)
    runner.run(ids, spans, sampled)

Fusing never changes a bit: a fused kernel does the same arithmetic in the same order as the separate ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from millet.kernels import ops
from millet.kernels.native.abi import Code, Prepare
from millet.kernels.record import Product, Step


@dataclass(eq=False)
class Slot:
    """Memory for one intermediate result: `width` numbers for each row (or each sampled row)."""

    width: int
    sampled: bool = False


@dataclass(frozen=True, eq=False)
class Symbol:
    """A view of a slot: the stand-in for a tensor while a model is traced."""

    recorder: Trace
    slot: Slot
    offset: int
    sizes: tuple[int, ...]
    group_stride: int

    @property
    def sampled(self) -> bool:
        return self.slot.sampled

    @property
    def whole(self) -> bool:
        """Whether this is all of its slot, in order."""
        return self.offset == 0 and math.prod(self.sizes) == self.slot.width and self._dense

    @property
    def _dense(self) -> bool:
        return len(self.sizes) == 1 or self.group_stride == self.sizes[1]

    def flatten(self, start: int) -> Symbol:
        assert start == 1
        assert self._dense
        width = math.prod(self.sizes)
        return Symbol(self.recorder, self.slot, self.offset, (width,), width)

    def unflatten(self, dim: int, sizes: tuple[int, int]) -> Symbol:
        assert dim == -1
        assert len(self.sizes) == 1
        heads, width = sizes
        heads, width = heads if heads > 0 else self.sizes[0] // width, width if width > 0 else self.sizes[0] // heads
        return Symbol(self.recorder, self.slot, self.offset, (heads, width), width)

    def split(self, widths: Sequence[int], dim: int) -> tuple[Symbol, ...]:
        assert dim == -1
        parts, offset = [], self.offset
        for width in widths:
            stride = self.group_stride if len(self.sizes) == 2 else width
            parts.append(Symbol(self.recorder, self.slot, offset, (*self.sizes[:-1], width), stride))
            offset += width
        return tuple(parts)

    def expand_as(self, other: Symbol) -> Symbol:
        """The one head as often as `other` has heads."""
        assert self.sizes[0] == 1
        return Symbol(self.recorder, self.slot, self.offset, (other.sizes[0], self.sizes[1]), 0)

    def head(self, index: int) -> Symbol:
        offset = self.offset + index * self.group_stride
        return Symbol(self.recorder, self.slot, offset, (self.sizes[1],), self.sizes[1])

    def __getitem__(self, key: tuple[slice, None]) -> Symbol:
        assert key == (slice(None), None)
        assert len(self.sizes) == 1
        return Symbol(self.recorder, self.slot, self.offset, (1, self.sizes[0]), self.sizes[0])

    def __add__(self, other: Symbol) -> Symbol:
        return ops.add(self, other)

    def picked(self) -> Symbol:
        """The rows whose logits are wanted."""
        out = self.recorder.new(*self.sizes, sampled=True)
        self.recorder.emit(Step(Code.PICK, (self,), (out,), n={0: self.sizes[0]}))
        return out


@dataclass(frozen=True)
class Marker:
    """Ids or positions of the rows: the batch has them."""

    recorder: Trace


class Trace:
    """Collects the steps of a forward."""

    together = True

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.ids = Marker(self)
        self.positions = Marker(self)

    def new(self, *sizes: int, like: Symbol | None = None, sampled: bool = False) -> Symbol:
        slot = Slot(math.prod(sizes), sampled or (like is not None and like.sampled))
        return Symbol(self, slot, 0, sizes, sizes[-1])

    def emit(self, step: Step) -> None:
        self.steps.append(step)

    def apply(
        self,
        build: Callable[..., Any],
        rows: Sequence[Symbol],
        parameters: Sequence[Tensor],
        reference: Callable[..., Any],
    ) -> Any:
        return build(*rows)


class TraceAttention:
    """The `Attention` of a traced forward: over the engine's cache, which keeps latents as they are (absorbed) or, to
    compare with, expanded to every head's key and value."""

    def __init__(self, trace: Trace, absorbed: bool = True) -> None:
        self.absorbed = absorbed
        self.positions_T = trace.positions

    def attend(self, layer: int, q: Symbol, k: Symbol, v: Symbol | None, *, scale: float, value_width: int) -> Symbol:
        return attend(layer, q, k, v, scale, value_width)


def attend(layer: int, q: Any, k: Any, v: Any, scale: float, value_width: int) -> Any:
    """Record one attention. `n[4..6]`, the cache's own layout, is filled in when a cache is known."""
    out = q.recorder.new(q.sizes[0], value_width, like=q)
    n = {0: q.sizes[0], 1: k.sizes[0], 2: k.sizes[1], 3: value_width}
    inputs = (q, k) if v is None else (q, k, v)
    q.recorder.emit(Step(Code.ATTEND, inputs, (out,), n=n, f=scale, layer=layer))
    return out


@dataclass
class Plan:
    """The fused steps, and which symbols are wanted from outside: inputs given, outputs read."""

    steps: list[Step]
    inputs: dict[str, Symbol] = field(default_factory=dict)
    outputs: dict[str, Symbol] = field(default_factory=dict)

    @classmethod
    def of(cls, trace: Trace, inputs: dict[str, Symbol], outputs: dict[str, Symbol]) -> Plan:
        kept = {symbol.slot for symbol in (*inputs.values(), *outputs.values())}
        # Symbols refer to their trace: had it steps, they would keep each other, and the weights in them, alive.
        traced, trace.steps = trace.steps, []
        steps = _fuse_additions(traced, kept)
        return cls(_fuse_preparations(steps, kept), inputs, outputs)

    def lifetimes(self) -> list[tuple[Slot, int, int]]:
        """Each slot with the first step that writes it and the last that reads it."""
        last = len(self.steps)
        lives: dict[Slot, list[int]] = {symbol.slot: [-1, last] for symbol in self.inputs.values()}
        for i, step in enumerate(self.steps):
            for symbol in step.writes():
                lives.setdefault(symbol.slot, [i, i])[1] = max(lives.get(symbol.slot, [i, i])[1], i)
            for symbol in step.reads():
                lives[symbol.slot][1] = max(lives[symbol.slot][1], i)
        for symbol in self.outputs.values():
            lives[symbol.slot][1] = last
        return [(slot, start, end) for slot, (start, end) in lives.items()]


def _readers(steps: Sequence[Step]) -> dict[Slot, list[int]]:
    found: dict[Slot, list[int]] = {}
    for i, step in enumerate(steps):
        for symbol in step.reads():
            found.setdefault(symbol.slot, []).append(i)
    return found


def _fuse_additions(steps: list[Step], kept: set[Slot]) -> list[Step]:
    """A product whose only use is to be added to something adds it itself."""
    steps = list(steps)
    readers = _readers(steps)
    writers = {symbol.slot: i for i, step in enumerate(steps) for symbol in step.writes()}
    dropped = set()
    for i, step in enumerate(steps):
        if step.code is not Code.ADD:
            continue
        for own, other in (step.inputs, reversed(step.inputs)):
            at = writers.get(own.slot, -1)
            if at < 0 or own.slot in kept or len(readers[own.slot]) != 1 or not own.whole:
                continue
            maker = steps[at]
            fits = maker.code is Code.PRODUCTS and len(maker.products) == 1 and maker.products[0].add is None
            if not fits or writers.get(other.slot, -1) >= at:
                continue
            product = maker.products[0]
            fused = Product(product.matrix, product.x, step.outputs[0], product.bias, other)
            steps[at] = maker.changed(products=(fused,))
            writers[step.outputs[0].slot] = at
            dropped.add(i)
            break
    return [step for i, step in enumerate(steps) if i not in dropped]


def _fuse_preparations(steps: list[Step], kept: set[Slot]) -> list[Step]:
    """A norm or gated activation that only feeds products becomes the way these prepare their input."""
    steps = list(steps)
    readers = _readers(steps)
    dropped = set()
    for i, step in enumerate(steps):
        if step.code not in (Code.NORM, Code.SWIGLU) or (step.code is Code.NORM and step.n[1] != 1):
            continue
        out = step.outputs[0]
        users = set(readers.get(out.slot, []))
        if out.slot in kept or len(users) != 1 or not out.whole:
            continue
        user = steps[at := users.pop()]
        if user.code is not Code.PRODUCTS or user.prepare or any(p.x is not out or p.add is out for p in user.products):
            continue
        prepare = Prepare.NORM if step.code is Code.NORM else Prepare.SWIGLU
        steps[at] = user.changed(inputs=step.inputs, weights=step.weights, f=step.f, n=user.n | {7: int(prepare)})
        dropped.add(i)
    return [step for i, step in enumerate(steps) if i not in dropped]
