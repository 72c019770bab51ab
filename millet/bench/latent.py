"""`millet bench latent`: how decoding slows down with the context, with a cache of latents and with expanded keys.

A small DeepSeek with V3's attention widths (latent 512, heads of 128 + 64 and 128) and random weights decodes one token
at growing contexts, both ways through the same native kernels. The latent cache holds 576 numbers per token and layer,
the expanded one 320 per head.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import torch

from millet.errors import KernelsUnavailable
from millet.kernels.block_cache import BLOCK_SIZE, BlockCache
from millet.kernels.bound_plan import BoundPlan
from millet.kernels.native.library import variant, why_not
from millet.kernels.paged import Span
from millet.kernels.plan import Plan, Trace, TraceAttention
from millet.models.config import ModelConfig
from millet.models.network import Network, build

CONTEXTS = (512, 1024, 2048, 4096, 8192)

SHAPE = {
    "model_type": "deepseek_v3",
    "vocab_size": 1024,
    "hidden_size": 512,
    "intermediate_size": 1024,
    "moe_intermediate_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "n_routed_experts": 16,
    "num_experts_per_tok": 4,
    "n_shared_experts": 1,
    "n_group": 4,
    "topk_group": 2,
    "first_k_dense_replace": 1,
    "q_lora_rank": 384,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "max_position_embeddings": 16384,
}


def bench_latent(
    contexts: Sequence[int] = CONTEXTS, rounds: int = 5, say: Callable[[str], None] = lambda text: None
) -> dict[str, Any]:
    """Milliseconds per token at each context, both ways, medians over rounds by turns; and bytes cached per token."""
    if variant() is None:
        raise KernelsUnavailable(f"millet bench latent measures the native kernels: {why_not()}")
    torch.manual_seed(0)
    config = ModelConfig.from_hf(SHAPE)
    network = build(config).eval()
    with torch.no_grad():
        network.pack()
    blocks = -(-max(contexts) // BLOCK_SIZE)
    ways = {"latent": _latent(network, blocks), "expanded": _expanded(network, blocks)}
    seconds: dict[tuple[str, int], list[float]] = {}
    for number in range(rounds):
        for context in contexts:
            say(f"round {number + 1} of {rounds}: context {context}")
            for name, plan in ways.items():
                seconds.setdefault((name, context), []).append(_step(plan, context, blocks))
    times = {name: {context: 1000 * median(seconds[name, context]) for context in contexts} for name in ways}
    mla = config.mla
    assert mla is not None
    per_head = mla.qk_nope_head_dim + mla.qk_rope_head_dim + mla.v_head_dim
    return {
        "kernels": variant(),
        "threads": torch.get_num_threads(),
        "milliseconds_per_token": times,
        "growth_per_1k": {name: _slope(by_context) for name, by_context in times.items()},
        "cached_bytes_per_token": {
            "latent": 2 * config.num_layers * (mla.kv_lora_rank + mla.qk_rope_head_dim),
            "expanded": 2 * config.num_layers * config.num_heads * per_head,
        },
    }


def _latent(network: Network, blocks: int) -> BoundPlan:
    spec = network.config.cache
    cache = BlockCache(
        layers=spec.layers,
        kv_heads=1,
        key_width=spec.key_width,
        value_width=spec.value_width,
        value_in_key=True,
        num_blocks=blocks,
        dtype=torch.float16,
    )
    _fill(cache)
    return BoundPlan(network.plan(), cache, max_rows=1, max_sampled=1)


def _expanded(network: Network, blocks: int) -> BoundPlan:
    config, trace = network.config, Trace()
    assert config.mla is not None
    hidden = network(trace.ids, TraceAttention(trace, absorbed=False))
    plan = Plan.of(trace, {}, {"hidden": hidden, "logits": network.head(hidden.picked())})
    cache = BlockCache(
        layers=config.num_layers,
        kv_heads=config.num_heads,
        key_width=config.head_dim,
        value_width=config.mla.v_head_dim,
        value_in_key=False,
        num_blocks=blocks,
        dtype=torch.float16,
    )
    _fill(cache)
    return BoundPlan(plan, cache, max_rows=1, max_sampled=1)


def _fill(cache: BlockCache) -> None:
    """Numbers in every place: memory that nobody wrote is one page of zeros, read from the processor's cache."""
    for store in (cache.keys, cache.values):
        if store is not None:
            for layer in store:
                layer.copy_(torch.randn(layer.shape))


def _step(plan: BoundPlan, context: int, blocks: int) -> float:
    """Seconds of one token that sees `context` positions; what they hold does not matter, only that it is there."""
    span = [Span(context - 1, 1, list(range(blocks)))]
    plan.run([1], span, [0])
    started = time.perf_counter()
    plan.run([2], span, [0])
    return time.perf_counter() - started


def _slope(by_context: dict[int, float]) -> float:
    """Milliseconds that a thousand more positions cost, from the shortest context to the longest."""
    first, last = min(by_context), max(by_context)
    return 1000 * (by_context[last] - by_context[first]) / (last - first) if last > first else 0.0
