"""DeepSeek V2 and V3 against transformers at toy size, and latent attention absorbed against naive."""

from pathlib import Path

import pytest
import torch

from millet.kernels.attention import PackedAttention
from tests.models.toy import (
    DEEPSEEK,
    V3,
    differences,
    draw_sequences,
    grown_logits,
    largest_difference,
    network_of,
    packed_logits,
    peer,
)

YARN = {
    "rope_type": "yarn",
    "rope_theta": 100.0,  # low, so that positions as small as these tests' meet stretched frequencies
    "factor": 4.0,
    "original_max_position_embeddings": 64,
    "beta_fast": 32,
    "beta_slow": 1,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
}
GROUPED = {"topk_method": "group_limited_greedy", "n_group": 3, "topk_group": 2}
CASES = {
    "v3": ("deepseek_v3", V3),
    "v3 yarn": ("deepseek_v3", V3 | {"rope_parameters": YARN}),
    "v3 yarn, unequal mscales": ("deepseek_v3", V3 | {"rope_parameters": YARN | {"mscale_all_dim": 0.5}}),
    "v3 full-rank queries": ("deepseek_v3", V3 | {"q_lora_rank": None}),
    "v3 full-rank queries, yarn": ("deepseek_v3", V3 | {"q_lora_rank": None, "rope_parameters": YARN}),
    "v3 one group": ("deepseek_v3", V3 | {"n_group": 1, "topk_group": 1}),
    "v3 biased, halves rotate, weights unnormalised": (
        "deepseek_v3",
        V3 | {"attention_bias": True, "rope_interleave": False, "norm_topk_prob": False},
    ),
    "v2": ("deepseek_v2", DEEPSEEK),
    "v2 yarn": ("deepseek_v2", DEEPSEEK | {"rope_parameters": YARN | {"mscale": 0.707, "mscale_all_dim": 0.707}}),
    "v2 groups": ("deepseek_v2", DEEPSEEK | GROUPED),
    "v2 full-rank queries, groups, yarn": (
        "deepseek_v2",
        DEEPSEEK | GROUPED | {"q_lora_rank": None, "rope_parameters": YARN},
    ),
}


@pytest.mark.parametrize(("kind", "settings"), CASES.values(), ids=CASES)
def test_logits_equal_those_of_transformers(kind: str, settings: dict, seed: int, tmp_path: Path) -> None:
    model = peer(kind, settings, seed)
    found = differences(model, network_of(model, tmp_path), seed)
    assert max(found.values()) <= 1e-4, found


@pytest.mark.parametrize("q_lora_rank", [None, 10])
def test_absorbed_attention_equals_naive(q_lora_rank: int | None, seed: int, tmp_path: Path) -> None:
    settings = V3 | {"q_lora_rank": q_lora_rank, "rope_parameters": YARN}
    network = network_of(peer("deepseek_v3", settings, seed), tmp_path)
    [ids] = draw_sequences(network, [19], seed)
    naive = grown_logits(network, ids, absorbed=False, steps=[5, 1, 8, 5])
    absorbed = grown_logits(network, ids, absorbed=True, steps=[7, 1, 1, 10])
    assert largest_difference([absorbed], [naive]) <= 1e-4
    assert largest_difference([naive], packed_logits(network, [ids])) <= 1e-4


def test_gradients_equal_those_of_transformers(seed: int, tmp_path: Path) -> None:
    model = peer("deepseek_v3", V3, seed)
    network = network_of(model, tmp_path)
    [ids] = draw_sequences(network, [15], seed)
    model(ids[None], labels=ids[None]).loss.backward()
    logits = network.head(network(ids, PackedAttention([len(ids)])))
    torch.nn.functional.cross_entropy(logits[:-1], ids[1:]).backward()
    theirs = dict(model.named_parameters())
    shared_names = [name for name, _ in network.named_parameters() if name in theirs]
    assert len(shared_names) > 30
    for name in shared_names:
        ours = network.get_parameter(name).grad
        torch.testing.assert_close(ours, theirs[name].grad, atol=1e-5, rtol=1e-3, msg=lambda m, n=name: f"{n}: {m}")
    for layer in (1, 2):  # transformers stacks the experts' weights
        stacked = theirs[f"model.layers.{layer}.mlp.experts.down_proj"].grad
        for e, expert in enumerate(network.model.layers[layer].mlp.experts):
            found = expert.down_proj.weight.grad
            torch.testing.assert_close(torch.zeros_like(stacked[e]) if found is None else found, stacked[e])
