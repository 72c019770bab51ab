"""A traced forward: fused or not, planned or step by step, it gives the same bits; and nothing in memory is lost."""

import random
from collections import Counter
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from millet.engine.forward import NativeForward
from millet.kernels import plan as module
from millet.kernels.block_cache import BLOCK_SIZE, BlockCache
from millet.kernels.bound_plan import _layout, _padded
from millet.kernels.eager import Eager, EagerAttention, Native
from millet.kernels.native.abi import Code, Format
from millet.kernels.paged import Span
from millet.kernels.plan import Plan, Slot, Symbol, Trace
from millet.kernels.record import Step
from millet.models.config import ModelConfig
from millet.models.network import Network, build
from tests.kernels.steps import threads
from tests.models.toy import DENSE, V3, VOCAB, randomise

needs_native = pytest.mark.usefixtures("with_native")

WIDE = {"hidden_size": 64, "intermediate_size": 96, "moe_intermediate_size": 32}  # what groups of 32 fit
WIDE |= {"kv_lora_rank": 32, "q_lora_rank": 32, "v_head_dim": 8}
CASES = {
    "llama": DENSE | {"model_type": "llama", "attention_bias": True, "mlp_bias": True},
    "qwen3": DENSE | {"model_type": "qwen3", "tie_word_embeddings": True},
    "deepseek": V3 | {"model_type": "deepseek_v3", "num_nextn_predict_layers": 1},
    "deepseek full-rank queries": V3 | {"model_type": "deepseek_v3", "q_lora_rank": None, "n_shared_experts": None},
    "deepseek 8-bit": V3 | WIDE | {"model_type": "deepseek_v3", "num_nextn_predict_layers": 1},
}
LENGTHS = [19, 1, 33, 2]


def network_of(case: str, seed: int) -> Network:
    network = build(ModelConfig.from_hf(CASES[case])).eval()
    randomise(network, seed)
    if "8-bit" in case:
        network.pack(lambda module: Format.F32 if module.__class__.__name__ == "Router" else Format.Q8)
    return network


def forward_of(network: Network, max_rows: int = 80) -> NativeForward:
    spec = network.config.cache
    cache = BlockCache(
        layers=spec.layers,
        kv_heads=spec.kv_heads,
        key_width=spec.key_width,
        value_width=spec.value_width,
        value_in_key=spec.value_in_key,
        num_blocks=32,
    )
    return NativeForward(network, cache, max_rows=max_rows)


def sequences_of(seed: int) -> list[list[int]]:
    rng = random.Random(seed)
    return [[rng.randrange(VOCAB) for _ in range(n)] for n in LENGTHS]


def tables_of(seed: int) -> list[list[int]]:
    blocks = list(range(32))
    random.Random(seed).shuffle(blocks)
    return [[blocks.pop() for _ in range(-(-n // BLOCK_SIZE))] for n in LENGTHS]


def whole(forward: NativeForward, seed: int) -> list[Tensor]:
    """Hidden states, logits of some rows, and what the MTP module makes of them."""
    sequences, tables = sequences_of(seed), tables_of(seed)
    spans = [Span(0, len(ids), table) for ids, table in zip(sequences, tables, strict=True)]
    ids = [token for sequence in sequences for token in sequence]
    hidden, logits = (x.clone() for x in forward.step(ids, spans, [0, 18, 19, 40, 54]))
    drafts = [forward.draft([*ids[1:], 3], hidden, spans, [2, 54]).clone()] if forward.has_mtp else []
    return [hidden, logits, *drafts]


@needs_native
@pytest.mark.parametrize("case", CASES)
def test_fusing_changes_no_bit(case: str, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    network = network_of(case, seed)
    fused = forward_of(network)
    monkeypatch.setattr(module, "_fuse_additions", lambda steps, kept: list(steps))
    monkeypatch.setattr(module, "_fuse_preparations", lambda steps, kept: list(steps))
    plain = forward_of(network)
    before, after = (Counter(step.code for step in forward.main.plan.steps) for forward in (plain, fused))
    assert before[Code.SWIGLU] > after[Code.SWIGLU] == 0
    assert after[Code.NORM] < before[Code.NORM]
    routed = after[Code.EXPERTS]  # each has an addition of its own: the experts' result is no product's
    assert before[Code.ADD] > after[Code.ADD] <= routed
    assert after[Code.PRODUCTS] == before[Code.PRODUCTS]
    for found, expected in zip(whole(fused, seed), whole(plain, seed), strict=True):
        assert torch.equal(found, expected)
        assert found.isfinite().all()


@needs_native
@pytest.mark.parametrize("case", CASES)
def test_a_plan_gives_the_bits_of_single_steps(case: str, seed: int) -> None:
    network, sequences = network_of(case, seed), sequences_of(seed)
    hidden, logits, *drafts = whole(forward_of(network), seed)
    ids_T = torch.tensor([token for ids in sequences for token in ids])
    with torch.no_grad():
        eager = Eager(ids_T, LENGTHS)
        own = network(eager.ids, EagerAttention(eager, torch.float32))
        assert torch.equal(own.tensor, hidden)
        assert torch.equal(network.head(own).tensor[[0, 18, 19, 40, 54]], logits)
        if drafts:
            eager = Eager(torch.cat((ids_T[1:], torch.tensor([3]))), LENGTHS)
            own = network.mtp[0](eager.ids, Native(eager, hidden), EagerAttention(eager, torch.float32))
            assert torch.equal(network.mtp[0].head(own).tensor[[2, 54]], drafts[0])


@needs_native
@pytest.mark.parametrize("case", CASES)
def test_rows_do_not_depend_on_how_steps_are_cut(case: str, seed: int) -> None:
    network, sequences, tables = network_of(case, seed), sequences_of(seed), tables_of(seed)
    rng = random.Random(seed)
    expected_hidden = list(whole(forward_of(network), seed)[0].split(LENGTHS))
    forward = forward_of(network, max_rows=24)
    done, found = [0] * 4, [[] for _ in LENGTHS]  # type: ignore[var-annotated]
    while done != LENGTHS:
        lengths = [min(rng.choice([0, 1, 1, 6]), n - d) for n, d in zip(LENGTHS, done, strict=True)]
        chosen = [i for i in rng.sample(range(4), 4) if lengths[i]]
        if not chosen:
            continue
        ids = [token for i in chosen for token in sequences[i][done[i] : done[i] + lengths[i]]]
        with threads(rng.choice([1, 2, 3])):
            rows = forward.step(ids, [Span(done[i], lengths[i], tables[i]) for i in chosen], [])[0].clone()
        for i, part in zip(chosen, rows.split([lengths[i] for i in chosen]), strict=True):
            found[i].append(part)
            done[i] += lengths[i]
    for parts, expected in zip(found, expected_hidden, strict=True):
        assert torch.equal(torch.cat(parts), expected)


def lives(plan: Plan) -> dict[Slot, set[int]]:
    """At which steps each slot holds something that is still wanted, or is being written.

    Operations on single rows that follow each other are run by each thread at its own pace: what one of them uses is in
    use during all of them.
    """
    free = [step.code not in (Code.PRODUCTS, Code.ATTEND, Code.EXPERTS, Code.PICK) for step in plan.steps]
    used: dict[Slot, list[int]] = {symbol.slot: [-1] for symbol in plan.inputs.values()}
    for i, step in enumerate(plan.steps):
        for symbol in (*step.reads(), *step.writes()):
            used.setdefault(symbol.slot, []).append(i)
    for symbol in plan.outputs.values():
        used[symbol.slot].append(len(plan.steps))
    lives = {}
    for slot, steps in used.items():
        first, last = min(steps), max(steps)
        while 0 < first < len(free) and free[first] and free[first - 1]:
            first -= 1
        while 0 <= last < len(free) - 1 and free[last] and free[last + 1]:
            last += 1
        lives[slot] = set(range(first, last + 1))
    return lives


def assert_nothing_overlaps(plan: Plan, limits: dict[bool, int]) -> None:
    places, size = _layout(plan, limits)
    slots = lives(plan)
    assert set(places) == set(slots)
    taken: dict[int, list[tuple[int, int]]] = {}
    for slot, steps in slots.items():
        begin, end = places[slot], places[slot] + _padded(slot) * limits[slot.sampled]
        assert begin >= 0
        assert end <= size
        assert _padded(slot) >= slot.width
        for i in steps:
            for other_begin, other_end in taken.setdefault(i, []):
                assert end <= other_begin or other_end <= begin
            taken[i].append((begin, end))


@needs_native
@pytest.mark.parametrize("case", CASES)
def test_the_memory_of_a_model_holds_everything_that_is_still_wanted(case: str, seed: int) -> None:
    network = network_of(case, seed)
    for plan in [network.plan(), *(network.mtp_plan(i) for i in range(len(network.mtp)))]:
        assert_nothing_overlaps(plan, {False: 80, True: 7})
        used = sum(_padded(slot) for slot in lives(plan) if not slot.sampled)
        assert _layout(plan, {False: 1, True: 0})[1] < 0.5 * used, "memory is not used again"


@settings(max_examples=150)
@given(st.data())
def test_memory_never_overlaps(data: st.DataObject) -> None:
    draw: Callable = data.draw
    trace = Trace()
    given_rows = trace.new(draw(st.integers(1, 70)))
    symbols: list[Symbol] = [given_rows]
    for _ in range(draw(st.integers(1, 25))):
        sampled = draw(st.booleans())
        outs = [trace.new(draw(st.integers(1, 70)), sampled=sampled) for _ in range(draw(st.integers(1, 2)))]
        inputs = tuple(draw(st.sampled_from(symbols)) for _ in range(draw(st.integers(1, 3))))
        trace.emit(Step(draw(st.sampled_from([Code.COPY, Code.NORM, Code.ATTEND])), inputs, tuple(outs)))
        symbols += outs
    wanted = {str(i): draw(st.sampled_from(symbols)) for i in range(draw(st.integers(1, 3)))}
    plan = Plan(trace.steps, {"given": given_rows}, wanted)
    assert_nothing_overlaps(plan, {False: draw(st.integers(1, 9)), True: draw(st.integers(1, 9))})
