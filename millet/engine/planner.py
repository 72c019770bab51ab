"""What will fit and how fast it will be: arithmetic over a model's sizes, the machine, and its measured roof.

The engine takes its cache size from here, `millet doctor` its table, `millet bench` the speeds to hold results against.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from millet.errors import OutOfMemory
from millet.kernels.cpu import CPU, Memory, choose_dtype, read_memory
from millet.kernels.roof import Roof
from millet.models.config import ModelConfig

BATCHES = (1, 8, 32)
"""Decode batch sizes that are predicted and benchmarked."""

PREFILL = 512
"""Prompt length that prefill is predicted for."""

MIN_CACHE = 512
"""The least cache worth starting with, in tokens: one short question and its answer."""

RUNTIME_BYTES = 320 * 2**20
"""Python, PyTorch and the activations of one step, beside weights and cache."""

USUAL_LAYERS = 30
"""Depth assumed for a model of which only the parameter count is known."""

# How much of the free memory the cache may take, and for how many sequences of full length it is wanted. On a CPU the
# memory belongs to the person's other programs as well; two: this conversation, and the one before, still remembered.
_SHARE, _SEQUENCES = 0.5, 2
_SHARE_CUDA, _SEQUENCES_CUDA = 0.8, 64

NATIVE_LAYER_SECONDS = 12e-6
"""What meeting six times and the small operations of one layer take the native kernels."""

OPERATIONS_PER_LAYER = 160
"""Operations that PyTorch starts for one layer of one step, weighted by how much costlier than an addition they are."""


@dataclass(frozen=True, slots=True)
class Cost:
    """The sizes of a model that decide memory and time, in numbers (not bytes).

    parameters: stored. unread: of those, what no ordinary step reads: an untied embedding, looked up row by row, and
    MTP modules. head: the output matrix, multiplied only for rows that are sampled from. routed: parameters of routed
    experts; idle: share of them that one token leaves alone. cached: numbers kept per token. attention: multiply-adds
    of one row for each position it sees.
    """

    parameters: int
    layers: int = USUAL_LAYERS
    unread: int = 0
    head: int = 0
    routed: int = 0
    idle: float = 0.0
    cached: int = 0
    attention: int = 0

    @classmethod
    def of(cls, config: ModelConfig) -> Cost:
        spec, moe = config.cache, config.moe
        mtp = config.num_parameters - replace(config, mtp_layers=0).num_parameters
        head = config.vocab_size * config.hidden_size
        expert = 3 * config.hidden_size * moe.intermediate_size if moe else 0
        return cls(
            parameters=config.num_parameters,
            layers=config.num_layers,
            unread=mtp + (0 if config.tie_word_embeddings else head),
            head=head,
            routed=(config.num_layers - moe.first_dense_layers) * moe.num_experts * expert if moe else 0,
            idle=1 - moe.top_k / moe.num_experts if moe else 0.0,
            cached=spec.layers * spec.kv_heads * (spec.key_width + (0 if spec.value_in_key else spec.value_width)),
            attention=config.num_layers * config.num_heads * (spec.key_width + spec.value_width),
        )

    def read(self, rows: int) -> float:
        """Parameters read by one step over `rows` rows: of the experts, those that some row is expected to choose."""
        return self.parameters - self.unread - self.routed * self.idle**rows

    def multiply_adds(self, rows: int, sampled: int, context: int) -> float:
        """Of one step over `rows` rows that see `context` positions each, `sampled` of them through the head."""
        layers = self.parameters - self.unread - self.head - self.routed * self.idle
        return rows * (layers + context * self.attention) + sampled * self.head


@dataclass(frozen=True, slots=True)
class Precision:
    """How numbers are kept and multiplied. weight: mean bytes of a weight; cache: bytes of a cached number. native: by
    the native kernels; integers: those in 8 bits and fewer."""

    weight: float
    cache: int
    native: bool = False
    integers: bool = False

    @classmethod
    def plain(cls, itemsize: int, native: bool = False) -> Precision:
        """Weights and cache in one floating type."""
        return cls(itemsize, itemsize, native)

    @property
    def label(self) -> str:
        """In words, for a table."""
        if self.integers:
            return f"{8 * self.weight:.1f} bits a weight"
        return "float32" if self.weight == 4 else f"{8 * self.weight:.0f}-bit floats"


@dataclass(frozen=True, slots=True)
class Step:
    """One step: `rows` rows of `batch` sequences, each seeing `context` positions; one row of each is sampled from."""

    rows: int
    batch: int
    context: int

    def predicted_seconds(self, cost: Cost, roof: Roof, kept: Precision) -> float:
        """With PyTorch, reading, arithmetic and starting operations add up: on the processors measured they hardly
        overlap. The native kernels read ahead while they multiply; their threads meet a few times in every layer."""
        reading, multiplying = self._seconds(cost, roof, kept)
        if kept.native:
            return max(reading, multiplying) + cost.layers * NATIVE_LAYER_SECONDS
        return reading + multiplying + cost.layers * OPERATIONS_PER_LAYER * roof.dispatch

    def roof_seconds(self, cost: Cost, roof: Roof, kept: Precision) -> float:
        """The least time the machine could take: reading and arithmetic at full speed and at once."""
        return max(self._seconds(cost, roof, kept))

    def _seconds(self, cost: Cost, roof: Roof, kept: Precision) -> tuple[float, float]:
        bytes_read = kept.weight * cost.read(self.rows) + kept.cache * self.batch * self.context * cost.cached
        rate = roof.bf16 if kept.weight == 2 and not kept.native and roof.bf16 else roof.fp32
        products = self.rows * self.context * cost.attention  # of attention, always in floats
        rest = cost.multiply_adds(self.rows, self.batch, 0)
        seconds = 2 * products / (roof.fp32 * 1e9) + 2 * rest / ((roof.int8 if kept.integers else None) or rate) / 1e9
        return bytes_read / (roof.read * 1e9), seconds


@dataclass(frozen=True, slots=True)
class Plan:
    """How a model would run here. Bytes; tokens; tokens/s. `needed` is weights, runtime and the least useful cache."""

    kept: str
    path: str
    fits: bool
    weights: int
    needed: int
    cache_tokens: int | None
    prefill: float
    decode: dict[int, float]


def plan(cost: Cost, context: int, roof: Roof, cpu: CPU, memory: Memory, kept: Precision | None = None) -> Plan:
    """The way the engine would choose on this machine, and what to expect of it; `kept` where the file decides that."""
    if kept is None:
        dtype = choose_dtype(roof.device, 4 * cost.parameters + RUNTIME_BYTES, cpu, memory)
        on_native = roof.device == "cpu" and dtype == "float32" and roof.int8 is not None
        kept = Precision.plain(getattr(torch, dtype).itemsize, on_native)
    weights = int(kept.weight * cost.parameters)
    needed = weights + RUNTIME_BYTES + kept.cache * cost.cached * min(context, MIN_CACHE)
    left = memory.available - weights - RUNTIME_BYTES
    return Plan(
        kept=kept.label,
        path=path(kept, roof.device),
        fits=needed <= memory.available,
        weights=weights,
        needed=needed,
        cache_tokens=cache_tokens(kept.cache * cost.cached, context, left, roof.device) if cost.cached else None,
        prefill=PREFILL / Step(PREFILL, 1, PREFILL // 2).predicted_seconds(cost, roof, kept),
        decode={b: b / Step(b, b, PREFILL).predicted_seconds(cost, roof, kept) for b in BATCHES},
    )


def path(kept: Precision, device: str) -> str:
    """Which kernels do the work, in words."""
    if device != "cpu":
        return f"{kept.label} on {device}"
    if kept.native:
        return f"{kept.label}, native kernels"
    packed = kept.weight == 4 and torch.backends.mkldnn.is_available()
    return f"{kept.label}, {'oneDNN packed' if packed else 'PyTorch'}"


def cache_tokens(token_bytes: int, context: int, available: int, device: str = "cpu") -> int:
    """Positions to reserve: full length for a few sequences, as far as a share of the `available` bytes goes."""
    share, sequences = (_SHARE, _SEQUENCES) if device == "cpu" else (_SHARE_CUDA, _SEQUENCES_CUDA)
    return max(0, min(sequences * context, int(share * available / token_bytes)))


def plan_cache(config: ModelConfig, dtype: torch.dtype, device: torch.device | str = "cpu") -> int:
    """Cache size in tokens for an engine about to start, its model already in memory.

    Raises OutOfMemory where not even a short conversation would fit.
    """
    device = torch.device(device)
    available = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else read_memory().available
    token_bytes = dtype.itemsize * Cost.of(config).cached
    context = config.max_position_embeddings
    tokens, least = cache_tokens(token_bytes, context, available, device.type), min(context, MIN_CACHE)
    if tokens < least:
        raise OutOfMemory(
            f"{available / 2**20:.0f} MB of memory are free, too little for a cache of {least} tokens "
            f"({least * token_bytes / 2**20:.0f} MB); close other programs or choose a smaller model"
        )
    return tokens
