import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from millet.errors import BadRequest
from millet.train import optimizer as module
from millet.train.optimizer import Optimizer, OptimizerSettings, is_muons, orthogonal, state_bytes

RATE, STEPS = 0.03, 7


def weights(seed: int, dtype: torch.dtype = torch.float32) -> dict[str, nn.Parameter]:
    """Matrices wide, high and square, one of the vocabulary, a vector."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {
        "model.embed_tokens.weight": (11, 4),
        "model.layers.0.up.weight": (9, 4),
        "model.layers.0.down.weight": (4, 9),
        "model.layers.0.o.weight": (4, 4),
        "model.norm.weight": (4,),
    }
    return {name: nn.Parameter(torch.randn(shape, generator=generator).to(dtype)) for name, shape in shapes.items()}


def gradients(parameters: dict[str, nn.Parameter], seed: int, step: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed * 1000 + step)
    return {name: torch.randn(p.shape, generator=generator) * 3 for name, p in parameters.items()}


def take_steps(optimizer: Optimizer, parameters: dict[str, nn.Parameter], seed: int, steps: range) -> None:
    for step in steps:
        for name, gradient in gradients(parameters, seed, step).items():
            parameters[name].grad = gradient.to(parameters[name].dtype)
        optimizer.collect()
        optimizer.step(1 / (1 + step), optimizer.norm())


def reference_adamw(
    weight: Tensor, moments: list[Tensor], gradient: Tensor, step: int, rate: float, decay: float
) -> None:
    """The algorithm of the paper, line by line, in float64."""
    beta1, beta2 = 0.9, 0.95
    weight.mul_(1 - rate * decay)
    moments[0] = beta1 * moments[0] + (1 - beta1) * gradient
    moments[1] = beta2 * moments[1] + (1 - beta2) * gradient**2
    corrected = moments[0] / (1 - beta1 ** (step + 1)), moments[1] / (1 - beta2 ** (step + 1))
    weight.sub_(rate * corrected[0] / (corrected[1].sqrt() + 1e-8))


def reference_muon(weight: Tensor, momentum: Tensor, gradient: Tensor, rate: float, decay: float) -> None:
    """From the singular values: each is put through the quintic five times, and the vectors stay."""
    momentum.copy_(0.9 * momentum + 0.1 * gradient)
    left, values, right = torch.linalg.svd(0.1 * gradient + 0.9 * momentum, full_matrices=False)
    values = values / values.square().sum().sqrt()
    for _ in range(5):
        values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
    weight.mul_(1 - rate * decay)
    weight.sub_(rate * 0.2 * math.sqrt(max(weight.shape)) * (left * values) @ right)


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_steps_are_those_of_the_papers(kind: str, seed: int) -> None:
    parameters = weights(seed)
    expected = {name: p.detach().double() for name, p in parameters.items()}
    moments = {name: [torch.zeros_like(w), torch.zeros_like(w)] for name, w in expected.items()}
    settings = OptimizerSettings(
        kind=kind,
        learning_rate=RATE,
        weight_decay=0.3,
        beta2=0.95,
        momentum=0.9,
        clip=4.0,  # type: ignore[arg-type]
    )
    take_steps(Optimizer(parameters, settings), parameters, seed, range(STEPS))
    for step in range(STEPS):
        raw = {name: g.double() for name, g in gradients(parameters, seed, step).items()}
        norm = math.sqrt(sum(g.square().sum().item() for g in raw.values()))
        for name, gradient in raw.items():
            clipped = gradient * min(1.0, 4.0 / norm)
            decay = 0.3 if gradient.dim() == 2 else 0.0
            if kind == "muon" and ".layers." in name:
                reference_muon(expected[name], moments[name][0], clipped, RATE / (1 + step), decay)
            else:
                reference_adamw(expected[name], moments[name], clipped, step, RATE / (1 + step), decay)
    for name, parameter in parameters.items():
        torch.testing.assert_close(parameter.double(), expected[name], rtol=1e-4, atol=1e-5)


def test_adamw_is_pytorchs(seed: int) -> None:
    ours, theirs = weights(seed), weights(seed)
    settings = OptimizerSettings(learning_rate=RATE, clip=1e9)
    take_steps(Optimizer(ours, settings), ours, seed, range(STEPS))
    optimizer = torch.optim.AdamW(theirs.values(), lr=RATE, betas=(0.9, 0.99), weight_decay=0.0, foreach=False)
    for step in range(STEPS):
        for name, gradient in gradients(theirs, seed, step).items():
            theirs[name].grad = gradient
        optimizer.param_groups[0]["lr"] = RATE / (1 + step)
        optimizer.step()
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_restored_it_goes_on_bit_for_bit(kind: str, dtype: torch.dtype, seed: int) -> None:
    settings = OptimizerSettings(kind=kind, learning_rate=RATE)  # type: ignore[arg-type]
    whole = weights(seed, dtype)
    optimizer = Optimizer(whole, settings)
    take_steps(optimizer, whole, seed, range(3))
    parts = {name: nn.Parameter(p.detach().clone()) for name, p in whole.items()}
    second = Optimizer(parts, settings)
    second.restore(optimizer.state())
    take_steps(optimizer, whole, seed, range(3, STEPS))
    take_steps(second, parts, seed, range(3, STEPS))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_masters_keep_what_bf16_would_round_away() -> None:
    parameter = nn.Parameter(torch.full((4, 4), 100.0, dtype=torch.bfloat16))
    optimizer = Optimizer({"w": parameter}, OptimizerSettings(learning_rate=0.1, clip=1e9))
    for _ in range(10):  # steps of 0.1, each less than half of what bf16 resolves at 100
        parameter.grad = torch.ones_like(parameter)
        optimizer.collect()
        optimizer.step(1.0, optimizer.norm())
    torch.testing.assert_close(parameter.float(), torch.full((4, 4), 99.0))


def test_gradients_of_bf16_weights_add_up_in_fp32() -> None:
    parameter = nn.Parameter(torch.zeros(2, 2, dtype=torch.bfloat16))
    optimizer = Optimizer({"w": parameter}, OptimizerSettings())
    for value in (1.0, *[2**-9] * 64):  # each of the small ones is lost when added to 1 in bf16
        parameter.grad = torch.full_like(parameter, value)
        optimizer.collect()
    assert optimizer.norm() == pytest.approx(2 * (1 + 64 * 2**-9))


def test_a_weight_without_a_gradient_stays(seed: int) -> None:
    parameters = weights(seed)
    before = {name: p.detach().clone() for name, p in parameters.items()}
    optimizer = Optimizer(parameters, OptimizerSettings(kind="muon", weight_decay=0.5))
    parameters["model.norm.weight"].grad = torch.ones(4)
    optimizer.collect()
    optimizer.step(1.0, optimizer.norm())
    changed = {name for name, p in parameters.items() if not torch.equal(p, before[name])}
    assert changed == {"model.norm.weight"}


def test_orthogonal_makes_singular_values_alike(seed: int) -> None:
    matrix = torch.randn(24, 10, generator=torch.Generator().manual_seed(seed))
    values = torch.linalg.svdvals(orthogonal(matrix))
    assert values.min() > 0.5
    assert values.max() < 1.3
    assert torch.linalg.svdvals(matrix).max() > 3 * torch.linalg.svdvals(matrix).min() / 2


def test_small_matrices_of_one_shape_are_made_orthogonal_together(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TOGETHER", 2 * 24 * 10)
    generator = torch.Generator().manual_seed(seed)
    shapes = {"a": (24, 10), "b": (10, 24), "c": (24, 10), "d": (24, 10), "large": (48, 30), "largest": (48, 30)}
    matrices = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    groups = module.together(matrices)
    assert sorted(groups) == [["a", "c"], ["b"], ["d"], ["large"], ["largest"]]
    for names in groups:
        found = orthogonal(torch.stack([matrices[name] for name in names]))
        for name, matrix in zip(names, found, strict=True):
            torch.testing.assert_close(matrix, orthogonal(matrices[name]), rtol=0, atol=1e-5)


def test_the_forecast_of_memory_is_what_the_state_takes(seed: int) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        parameters = weights(seed, dtype)
        settings = OptimizerSettings(kind="muon")
        optimizer = Optimizer(parameters, settings)
        take_steps(optimizer, parameters, seed, range(1))
        state = optimizer.state()
        moments = [t for s in state["adamw"]["state"].values() for t in s.values() if t.dim() > 0]
        held = sum(t.nbytes for t in (*moments, *state["momentum"].values(), *state["masters"].values()))
        gradients_bytes = sum(4 * p.numel() for p in parameters.values())
        assert state_bytes(parameters, settings) == held + gradients_bytes


def test_muon_is_for_matrices_between_layers() -> None:
    names = {name for name, p in weights(0).items() if is_muons(name, p)}
    assert names == {f"model.layers.0.{part}.weight" for part in ("up", "down", "o")}


@pytest.mark.parametrize("wrong", [{"learning_rate": 0.0}, {"clip": -1.0}, {"beta1": 1.0}, {"weight_decay": -0.1}])
def test_impossible_settings_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(BadRequest, match=f"optimizer.{next(iter(wrong))}"):
        OptimizerSettings(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_whoever_keeps_a_copy_sees_that_a_weight_has_changed(kind: Any) -> None:
    weights = {"layer.weight": nn.Parameter(torch.ones(4, 4)), "layer.bias": nn.Parameter(torch.ones(4))}
    optimizer = Optimizer(weights, OptimizerSettings(kind=kind))
    before = {name: weight._version for name, weight in weights.items()}
    sum(weight.square().sum() for weight in weights.values()).backward()
    optimizer.step(1.0, optimizer.norm())
    assert all(weight._version > before[name] for name, weight in weights.items())
