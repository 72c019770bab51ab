"""Experts on the native kernels against models/moe.py's PyTorch form: the choice, the sum, the gradients."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from millet.kernels.eager import Eager, Native
from millet.kernels.matrix import Matrix
from millet.kernels.native.abi import Format
from millet.models.config import ModelConfig
from millet.models.moe import MoE
from tests.kernels.steps import rounded_activations, threads
from tests.models.test_moe import SETTINGS, logits_of
from tests.models.toy import choice_scores, choose_experts

pytestmark = pytest.mark.usefixtures("with_native")

WIDE = {  # widths that groups of 32 fit; enough experts for a choice of groups to matter
    "hidden_size": 64,
    "moe_intermediate_size": 96,
    "n_routed_experts": 24,
    "n_group": 6,
    "topk_group": 3,
    "num_experts_per_tok": 5,
}
CASES = SETTINGS | {"v3 wide": SETTINGS["v3"] | WIDE}


def block_of(settings: dict, seed: int, shift: float = 0.0) -> MoE:
    torch.manual_seed(seed)
    block = MoE(ModelConfig.from_hf(settings))
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.normal_(std=parameter.shape[-1] ** -0.5)
        if block.gate.moe.correction_bias:
            block.gate.e_score_correction_bias.normal_().add_(shift)
    return block


def draw_rows(block: MoE, rows: int, width: int, settled: Callable[[Tensor], bool] = lambda x_1D: True) -> Tensor:
    """Inputs for which no choice of experts is so close that rounding decides it; nor anything else: see `settled`."""
    found: list[Tensor] = []
    while len(found) < rows:
        x_D = torch.randn(width)
        scores_E = choice_scores(block.gate, logits_of(block.gate, x_D[None]))[0]
        if choose_experts(scores_E.tolist(), block.gate.moe)[1] > 1e-5 and settled(x_D[None]):
            found.append(x_D)
    return torch.stack(found)


def on_rows(block: MoE, x_TD: Tensor, count: int = 2) -> Tensor:
    with threads(count):
        eager = Eager(torch.zeros(len(x_TD), dtype=torch.int64), [len(x_TD)])
        out: Tensor = block(Native(eager, x_TD)).tensor
    return out


@pytest.mark.parametrize("shift", [0.0, -3.0])
@pytest.mark.parametrize("settings", CASES.values(), ids=CASES)
def test_experts_equal_the_pytorch_form(settings: dict, shift: float, seed: int) -> None:
    block = block_of(settings, seed, shift)
    width = settings["hidden_size"]
    for rows in (1, 2, 7, 50):
        x_TD = draw_rows(block, rows, width)
        with torch.no_grad():
            torch.testing.assert_close(on_rows(block, x_TD), block(x_TD), atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("settings", CASES.values(), ids=CASES)
def test_gradients_equal_those_of_the_pytorch_form(settings: dict, seed: int) -> None:
    """With few rows, so that some experts have none and get no gradient."""
    block = block_of(settings, seed)
    plain = copy.deepcopy(block)
    x_TD = draw_rows(block, 3, settings["hidden_size"])
    weights = torch.randn(x_TD.shape)
    inputs = []
    for module, forward in ((block, on_rows), (plain, lambda module, x: module(x))):
        inputs.append(x_TD.clone().requires_grad_())
        (forward(module, inputs[-1]) * weights).sum().backward()
    torch.testing.assert_close(inputs[0].grad, inputs[1].grad, atol=1e-5, rtol=1e-4)
    theirs = dict(plain.named_parameters())
    for name, parameter in block.named_parameters():
        found, expected = parameter.grad, theirs[name].grad
        if not theirs[name].requires_grad:
            assert found is None
            continue
        found = torch.zeros_like(parameter) if found is None else found
        expected = torch.zeros_like(parameter) if expected is None else expected
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.parametrize("format", [Format.F32, Format.Q8, Format.Q4_0])
def test_a_row_is_the_same_bits_in_any_company_on_any_number_of_threads(format: Format, seed: int) -> None:
    block = block_of(CASES["v3 wide"], seed)
    pack(block, lambda module: Format.F32 if module is block.gate else format)
    x_TD = torch.randn(60, 64)
    with torch.no_grad():
        expected = on_rows(block, x_TD, 1)
        for count in (1, 2, 3):
            for start, rows in [(0, 60), (5, 1), (20, 3), (30, 17)]:
                found = on_rows(block, x_TD[start : start + rows], count)
                assert torch.equal(found, expected[start : start + rows]), (count, start, rows)


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("format", [Format.F16, Format.Q8, Format.Q4_0])
def test_packed_experts_are_those_of_their_values(format: Format, mixed: bool, seed: int) -> None:
    """`mixed`: gate, up and down in formats of their own, as some files have them."""
    block = block_of(CASES["v3 wide"], seed)

    def choose(module: nn.Module) -> Format:
        if module is block.gate:
            return Format.F32
        gates = [expert.gate_proj for expert in block.experts]
        return Format.F32 if mixed and module in gates else format

    values, distances = copy.deepcopy(block), []

    def round_input(_module: nn.Module, inputs: tuple[Tensor]) -> Tensor:
        x_TK, distance = rounded_activations(inputs[0])
        distances.append(distance)
        return x_TK

    def settled(x_1D: Tensor) -> bool:
        """Whether all integers are the same ones after any order of sums in fp32, which moves them by some 1e-5."""
        distances.clear()
        values(x_1D)
        return min(distances, default=0.5) > 3e-4

    with torch.no_grad():
        for module, twin in zip(block.modules(), values.modules(), strict=True):
            if isinstance(module, nn.Linear):
                twin.weight.copy_(Matrix.pack(module.weight, choose(module)).unpack())
                if choose(module) in (Format.Q8, Format.Q4_0):
                    twin.register_forward_pre_hook(round_input)  # activations are 8-bit where weights are quantised
        pack(block, choose)
        x_TD = draw_rows(values, 40, 64, settled)
        found, expected = on_rows(block, x_TD), values(x_TD)
    assert ((found - expected).norm(dim=-1) <= 1e-5 * expected.norm(dim=-1)).all()


def test_a_gradient_passes_through_packed_experts(seed: int) -> None:
    block = block_of(CASES["v3 wide"], seed)
    pack(block, lambda module: Format.F32)
    plain = copy.deepcopy(block)
    for group in groups(plain):
        group.unpack()
    x_TD = draw_rows(plain, 5, 64)
    ours, theirs = x_TD.clone().requires_grad_(), x_TD.clone().requires_grad_()
    on_rows(block, ours).square().sum().backward()
    plain(theirs).square().sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-4, rtol=1e-3)


def groups(block: MoE) -> list:
    from millet.kernels.linear import LinearGroup

    return [g for module in block.modules() for g in vars(module).values() if isinstance(g, LinearGroup)]


def pack(block: MoE, choose) -> None:  # type: ignore[no-untyped-def]
    for group in groups(block):
        group.pack(choose)
