"""The planner's arithmetic, held against networks that are counted and caches that are allocated."""

from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from millet.engine import planner
from millet.engine.planner import Cost, Precision, Step, cache_tokens, plan, plan_cache
from millet.errors import OutOfMemory
from millet.kernels.attention import PackedAttention
from millet.kernels.cpu import CPU, Memory
from millet.kernels.paged import PagedCache
from millet.kernels.roof import Roof
from millet.models.config import ModelConfig
from millet.models.network import build

GB = 10**9
ROOF = Roof(read=20.0, fp32=100.0, bf16=200.0, int8=400.0, dispatch=1e-6, device="cpu", threads=2)
AVX2 = CPU("a processor", "x86_64", ("avx2",), 2, 2)
ZEN4 = CPU("a processor", "x86_64", ("avx2", "avx512_bf16"), 2, 2)

DENSE = {
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 256,
}
LLAMA = ModelConfig.from_hf(DENSE | {"model_type": "llama", "tie_word_embeddings": True})
QWEN = ModelConfig.from_hf(DENSE | {"model_type": "qwen3", "tie_word_embeddings": False})
DEEPSEEK = ModelConfig.from_hf(
    DENSE
    | {
        "model_type": "deepseek_v3",
        "moe_intermediate_size": 20,
        "n_routed_experts": 12,
        "num_experts_per_tok": 3,
        "n_shared_experts": 1,
        "first_k_dense_replace": 1,
        "n_group": 4,
        "topk_group": 2,
        "kv_lora_rank": 12,
        "q_lora_rank": 10,
        "qk_nope_head_dim": 14,
        "qk_rope_head_dim": 8,
        "v_head_dim": 6,
        "num_key_value_heads": 4,
        "num_nextn_predict_layers": 1,
    }
)


@pytest.mark.parametrize("config", [LLAMA, QWEN, DEEPSEEK], ids=lambda c: c.architecture)
def test_parameters_are_those_of_the_network(config: ModelConfig) -> None:
    with torch.device("meta"):
        network = build(config)
    cost = Cost.of(config)
    assert cost.parameters == sum(p.numel() for p in network.parameters())
    embedding = 0 if config.tie_word_embeddings else config.vocab_size * config.hidden_size
    mtp = sum(p.numel() for layer in network.mtp for name, p in layer.named_parameters() if owned(name))
    assert cost.unread == embedding + mtp


def owned(name: str) -> bool:
    return not name.startswith(("embed_tokens", "shared_head.head"))


@pytest.mark.parametrize("config", [LLAMA, QWEN], ids=lambda c: c.architecture)
def test_arithmetic_is_what_pytorch_counts(config: ModelConfig) -> None:
    network, rows, sampled = build(config), 7, 2
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network.head(network(torch.arange(rows), PackedAttention([rows]))[:sampled])
    products = counter.get_flop_counts()["Global"]
    counted = sum(n for op, n in products.items() if "attention" not in str(op))
    planned = 2 * Cost.of(config).multiply_adds(rows, sampled, context=0)
    # Norm weights are counted as if they were matrices; at this width that is a few percent.
    assert planned == pytest.approx(counted, rel=0.03)


@pytest.mark.parametrize("config", [LLAMA, QWEN, DEEPSEEK], ids=lambda c: c.architecture)
def test_cached_numbers_are_what_the_cache_allocates(config: ModelConfig) -> None:
    spec = config.cache
    cache = PagedCache(
        layers=spec.layers,
        kv_heads=spec.kv_heads,
        key_width=spec.key_width,
        value_width=spec.value_width,
        value_in_key=spec.value_in_key,
        num_blocks=5,
        block_size=4,
    )
    stores = {
        t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in vars(cache).values() if torch.is_tensor(t)
    }
    assert sum(stores.values()) == 20 * 4 * Cost.of(config).cached


def test_experts_are_read_as_often_as_rows_choose_them(seed: int) -> None:
    cost = Cost.of(DEEPSEEK)
    expert = 3 * 32 * 20
    everything = cost.parameters - cost.unread
    assert cost.read(1) == pytest.approx(everything - 2 * (12 - 3) * expert)
    assert cost.read(10_000) == pytest.approx(everything)
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.rand(4000, 5, 12, generator=generator).topk(3).indices  # 5 rows, each chooses 3 of 12
    touched = torch.zeros(4000, 12).scatter_(1, chosen.flatten(1), 1).sum(1).mean().item()
    assert cost.read(5) == pytest.approx(everything - 2 * (12 - touched) * expert, rel=0.01)


def test_a_step_in_pytorch_takes_reading_and_arithmetic_and_dispatch() -> None:
    cost = Cost(parameters=1_000_000, layers=10, head=200_000, cached=100, attention=50)
    step = Step(rows=8, batch=8, context=40)
    reading = 4 * (1_000_000 + 8 * 40 * 100) / 20e9
    arithmetic = 2 * 8 * (1_000_000 + 40 * 50) / 100e9
    plain = Precision.plain(4)
    assert step.roof_seconds(cost, ROOF, plain) == pytest.approx(max(reading, arithmetic))
    dispatch = 10 * planner.OPERATIONS_PER_LAYER * 1e-6
    assert step.predicted_seconds(cost, ROOF, plain) == pytest.approx(reading + arithmetic + dispatch)
    halves = Precision.plain(2)
    assert step.roof_seconds(cost, ROOF, halves) == pytest.approx(
        max(reading / 2, 2 * 8 * 1_000_000 / 200e9 + 2 * 8 * 40 * 50 / 100e9)
    )


def test_a_step_on_the_native_kernels_reads_while_it_multiplies() -> None:
    cost = Cost(parameters=1_000_000, layers=10, head=200_000, cached=100, attention=50)
    layers = 10 * planner.NATIVE_LAYER_SECONDS
    kept = Precision(weight=0.6, cache=2, native=True, integers=True)
    for rows in (1, 8, 100):
        step = Step(rows=rows, batch=rows, context=40)
        reading = (0.6 * 1_000_000 + 2 * rows * 40 * 100) / 20e9
        arithmetic = 2 * rows * (1_000_000 / 400e9 + 40 * 50 / 100e9)  # attention stays in floats
        assert step.roof_seconds(cost, ROOF, kept) == pytest.approx(max(reading, arithmetic))
        assert step.predicted_seconds(cost, ROOF, kept) == pytest.approx(max(reading, arithmetic) + layers)
    halves = Step(8, 8, 0).roof_seconds(cost, ROOF, Precision.plain(2, native=True))
    assert halves == pytest.approx(2 * 8 * 1_000_000 / 100e9), "the native kernels multiply halves in fp32"


def test_prefill_multiplies_the_head_for_one_row_only() -> None:
    cost = Cost(parameters=1000, head=400)
    assert cost.multiply_adds(rows=100, sampled=1, context=0) == 100 * 600 + 400


@pytest.mark.parametrize(
    ("context", "available", "device", "expected"),
    [
        (1000, 100 * GB, "cpu", 2000),  # two full conversations
        (1000, 1500 * 1024, "cpu", 750),  # half of what is free
        (1000, 100 * GB, "cuda", 64_000),
        (1000, 1000 * 1024, "cuda", 800),
        (1000, -5, "cpu", 0),
    ],
)
def test_cache_is_bounded_by_wish_and_by_memory(context: int, available: int, device: str, expected: int) -> None:
    assert cache_tokens(1024, context, available, device) == expected


def test_cache_of_an_engine_follows_the_free_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    token = 4 * Cost.of(LLAMA).cached
    monkeypatch.setattr(planner, "read_memory", lambda: Memory(GB, GB))
    assert plan_cache(LLAMA, torch.float32) == 512
    monkeypatch.setattr(planner, "read_memory", lambda: Memory(GB, 2 * 300 * token))
    assert plan_cache(LLAMA, torch.float32) == 300
    assert plan_cache(LLAMA, torch.bfloat16) == 512
    monkeypatch.setattr(planner, "read_memory", lambda: Memory(GB, 2 * 200 * token))
    with pytest.raises(OutOfMemory, match="close other programs or choose a smaller model"):
        plan_cache(LLAMA, torch.float32)


def test_plan_of_a_model_that_fits() -> None:
    cost = Cost(parameters=134_515_008, layers=30, head=28_311_552, cached=11_520, attention=34_560)
    it = plan(cost, 8192, ROOF, AVX2, Memory(8 * GB, 6 * GB))
    assert it.fits
    assert (it.kept, it.path) == ("float32", "float32, native kernels")
    assert it.weights == 538_060_032
    assert it.cache_tokens == 16_384
    assert it.decode[1] < it.decode[8] < it.decode[32] < it.prefill * 2
    assert 15 < it.decode[1] < 20e9 / it.weights  # never above what the bandwidth allows
    without = plan(cost, 8192, replace(ROOF, int8=None), AVX2, Memory(8 * GB, 6 * GB))
    assert "native" not in without.path
    assert 15 < without.decode[1] < it.decode[1]


def test_plan_of_a_quantised_file() -> None:
    cost = Cost(parameters=134_515_008, layers=30, head=28_311_552, cached=11_520, attention=34_560)
    kept = Precision(weight=0.625, cache=2, native=True, integers=True)
    it = plan(cost, 8192, ROOF, AVX2, Memory(8 * GB, 6 * GB), kept)
    assert (it.kept, it.path) == ("5.0 bits a weight", "5.0 bits a weight, native kernels")
    assert it.weights == 134_515_008 * 5 // 8
    assert it.needed == it.weights + planner.RUNTIME_BYTES + 2 * 11_520 * planner.MIN_CACHE
    fp32 = plan(cost, 8192, ROOF, AVX2, Memory(8 * GB, 6 * GB))
    assert all(it.decode[batch] > 2 * fp32.decode[batch] for batch in (1, 8))


def test_bf16_is_planned_only_where_it_is_native_and_fp32_does_not_fit() -> None:
    cost = Cost(parameters=1_500_000_000)
    assert plan(cost, 4096, ROOF, ZEN4, Memory(16 * GB, 16 * GB)).kept == "float32"
    small = Memory(8 * GB, 5 * GB)
    native, emulated = plan(cost, 4096, ROOF, ZEN4, small), plan(cost, 4096, ROOF, AVX2, small)
    assert (native.kept, native.fits) == ("16-bit floats", True)
    assert (emulated.kept, emulated.fits) == ("float32", False)
    assert native.cache_tokens is None  # its cache is not known yet
    both = replace(ROOF, bf16=None)
    assert plan(cost, 4096, both, AVX2, small).path.startswith("float32")
