"""The router against the paper's rule in plain Python, and the experts against a sum over all of them."""

import pytest
import torch

from millet.models.config import ModelConfig, MoEConfig
from millet.models.moe import MoE, Router
from tests.models.toy import DEEPSEEK, V3, choice_scores, choose_experts

V2 = DEEPSEEK | {"model_type": "deepseek_v2"}
SETTINGS = {
    "v3": V3 | {"model_type": "deepseek_v3"},
    "v3 ungrouped, no shared experts": V3 | {"model_type": "deepseek_v3", "n_group": 1, "n_shared_experts": None},
    "v2 greedy": V2 | {"topk_method": "greedy", "n_group": 3, "topk_group": 1},
    "v2 groups": V2 | {"topk_method": "group_limited_greedy", "n_group": 3, "topk_group": 2, "norm_topk_prob": True},
}


def moe_block(settings: dict, seed: int) -> tuple[MoE, MoEConfig, torch.Tensor]:
    torch.manual_seed(seed)
    config = ModelConfig.from_hf(settings)
    assert config.moe is not None
    return MoE(config), config.moe, torch.randn(50, config.hidden_size)


def logits_of(router: Router, x_TD: torch.Tensor) -> torch.Tensor:
    return x_TD @ router.weight.detach().T


def by_the_paper(router: Router, x_TD: torch.Tensor) -> list[dict[int, float]]:
    """For each token, its experts and their weights."""
    moe = router.moe
    found = []
    for x_D, choice_E in zip(x_TD, choice_scores(router, logits_of(router, x_TD)).tolist(), strict=True):
        logits_E = router.weight.detach() @ x_D
        scores = (torch.sigmoid(logits_E) if moe.scoring == "sigmoid" else torch.softmax(logits_E, 0)).tolist()
        chosen, _margin = choose_experts(choice_E, moe)
        total = sum(scores[e] for e in chosen) if moe.norm_topk_prob else 1.0
        found.append({e: moe.routed_scaling_factor * scores[e] / total for e in chosen})
    return found


def assert_routes_by_the_paper(router: Router, x_TD: torch.Tensor) -> None:
    weights_TJ, experts_TJ = router(logits_of(router, x_TD))
    for weights, experts, expected in zip(weights_TJ, experts_TJ.tolist(), by_the_paper(router, x_TD), strict=True):
        assert dict(zip(experts, weights.tolist(), strict=True)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_routing_follows_the_paper(settings: dict, seed: int) -> None:
    block, _, x_TD = moe_block(settings, seed)
    assert_routes_by_the_paper(block.gate, x_TD)


@pytest.mark.parametrize("shift", [0.0, -1.0, -3.0])
def test_a_negative_correction_bias_never_lets_another_group_in(shift: float, seed: int) -> None:
    """With s + b < 0 everywhere, masking the other groups with 0 would choose from exactly those groups."""
    block, moe, x_TD = moe_block(SETTINGS["v3"], seed)
    with torch.no_grad():
        block.gate.e_score_correction_bias.copy_(torch.randn(moe.num_experts) + shift)
    assert_routes_by_the_paper(block.gate, x_TD)
    if shift == -3.0:
        assert (choice_scores(block.gate, logits_of(block.gate, x_TD)) < 0).any()
    _, experts_TJ = block.gate(block.router(x_TD)[0])
    groups = experts_TJ // (moe.num_experts // moe.num_groups)
    assert max(len(set(row)) for row in groups.tolist()) <= moe.top_groups


def test_the_correction_bias_changes_the_choice_but_not_the_weights(seed: int) -> None:
    block, moe, x_TD = moe_block(SETTINGS["v3 ungrouped, no shared experts"], seed)
    with torch.no_grad():
        block.gate.e_score_correction_bias[5] = 10.0
    weights_TJ, experts_TJ = block.gate(block.router(x_TD)[0])
    assert (experts_TJ == 5).any(-1).all()
    torch.testing.assert_close(weights_TJ.sum(-1), torch.full((len(x_TD),), moe.routed_scaling_factor))
    assert not block.gate.e_score_correction_bias.requires_grad


def test_routing_is_fp32_whatever_the_model_type(seed: int) -> None:
    block, _, x_TD = moe_block(SETTINGS["v3"], seed)
    block = block.bfloat16()
    seen: list[torch.dtype] = []
    block.gate.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0].dtype))
    assert block(x_TD.bfloat16()).dtype == torch.bfloat16
    assert seen == [torch.float32]
    weights_TJ, _ = block.gate(block.router(x_TD)[0])
    assert weights_TJ.dtype == torch.float32


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_output_is_the_weighted_sum_of_the_chosen_experts(settings: dict, seed: int) -> None:
    block, moe, x_TD = moe_block(settings, seed)
    with torch.no_grad():
        expected_TD = torch.zeros_like(x_TD)
        for t, weights in enumerate(by_the_paper(block.gate, x_TD)):
            for e, weight in weights.items():
                expected_TD[t] += weight * block.experts[e](x_TD[t])
        if moe.num_shared_experts:
            expected_TD += block.shared_experts(x_TD)
        torch.testing.assert_close(block(x_TD), expected_TD, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(block(x_TD[:1]), expected_TD[:1], atol=1e-5, rtol=1e-4)


def test_an_expert_sees_only_its_own_tokens(seed: int) -> None:
    block, moe, x_TD = moe_block(SETTINGS["v3"], seed)
    rows = [0] * moe.num_experts
    for e, expert in enumerate(block.experts):
        expert.register_forward_hook(lambda _module, inputs, _output, e=e: rows.__setitem__(e, len(inputs[0])))
    block(x_TD)
    _, experts_TJ = block.gate(block.router(x_TD)[0])
    assert rows == experts_TJ.flatten().bincount(minlength=moe.num_experts).tolist()
