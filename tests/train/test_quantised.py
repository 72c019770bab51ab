"""An adapter over a frozen quantised base: the bits of the engine, the gradient of the values that the base stands for,
and what is saved and loaded again.

Toys have a width that is a multiple of 32, as the quantised formats ask for.
"""

from __future__ import annotations

import random
import signal
import weakref
from pathlib import Path

import pytest
import torch
from torch import Tensor

from millet.engine.engine import Engine
from millet.engine.sampling import Sampling
from millet.errors import BadRequest
from millet.kernels import gradients
from millet.kernels.matrix import Matrix
from millet.kernels.native.abi import Format
from millet.models.load import load
from millet.models.model import Model
from millet.train.chain import train
from millet.train.lora import LoraConfig
from millet.train.recipe import read_recipe
from millet.train.trainee import Trainee
from tests.models.files import toy, write_directory
from tests.train.faulty import train_until
from tests.train.test_grpo_stage import write
from tests.train.toy_recipe import Heard, one_thread  # noqa: F401 - a fixture

pytestmark = pytest.mark.usefixtures("with_native", "one_thread")

LORA = LoraConfig(rank=4, alpha=8.0)
PROMPT = [5, 9, 60, 31, 12, 44, 45, 101, 7, 3, 99, 14, 200, 8, 17, 6, 91, 92, 93, 94, 95]  # a cache block and a part
SEQUENCES = [[*PROMPT, 44, 45, 101], [*PROMPT, 17], [*PROMPT, 6, 91, 92, 93, 94, 95, 96], [4, 8, 9]]
FIRST = [len(PROMPT)] * 3 + [1]
SIZES = {"hidden_size": 64, "intermediate_size": 96, "head_dim": 16}


@pytest.fixture(params=["q8", "q4"])
def base(request: pytest.FixtureRequest, tmp_path: Path, seed: int) -> Path:
    """A directory whose weights are just those that `quantize` makes of them."""
    return write_directory(toy("qwen3-tied", seed, **SIZES), tmp_path / request.param)


def quantised(base: Path) -> Model:
    model = load(base, quantize=base.name)  # type: ignore[arg-type]
    assert model.quantised
    return model


def moved(trainee: Trainee, seed: int, size: float = 0.1) -> Trainee:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in trainee.parameters.items():
            if "lora_B" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * size)
    return trainee


def gradients_of(trainee: Trainee, logprobs: list[Tensor]) -> dict[str, Tensor]:
    weights = torch.linspace(-1, 2, sum(map(len, logprobs)))
    found = torch.autograd.grad((torch.cat(logprobs) * weights).sum(), list(trainee.parameters.values()))
    return dict(zip(trainee.parameters, found, strict=True))


@pytest.mark.parametrize("case", ["qwen3-tied", "llama-biases", "deepseek_v3"])
@pytest.mark.parametrize("kind", ["q8", "q4"])
def test_the_trainees_bits_are_the_engines_through_steps(case: str, kind: str, tmp_path: Path, seed: int) -> None:
    sizes = {key: SIZES[key] for key in ("hidden_size", "intermediate_size")}
    model = load(write_directory(toy(case, seed, **sizes), tmp_path / "toy"), quantize=kind)  # type: ignore[arg-type]
    assert model.quantised
    trainee = moved(Trainee(model, LORA), seed)
    sampling = Sampling(temperature=1.0, seed=seed, max_tokens=9, n=3, logprobs=True, ignore_eos=True)
    said = []
    with Engine(model, cache_tokens=512, exact=True) as engine:
        for _ in range(2):
            outs = engine.generate([PROMPT], sampling)[0]
            sequences = [[*PROMPT, *out.token_ids] for out in outs]
            logprobs = trainee.logprobs(sequences, [len(PROMPT)] * 3)
            assert [each.tolist() for each in logprobs] == [out.logprobs for out in outs]
            found = gradients_of(trainee, logprobs)
            with torch.no_grad():
                own = model.logprobs(sequences)
                assert [each[len(PROMPT) - 1 :].tolist() for each in own] == [out.logprobs for out in outs]
                for name, gradient in found.items():
                    trainee.parameters[name] -= 0.01 * gradient
            said.append([out.logprobs for out in outs])
            engine.refresh()
    assert said[0] != said[1], "the engine did not hear of the step"


def test_gradients_are_those_of_the_values_it_stands_for(base: Path, tmp_path: Path, seed: int) -> None:
    """Up to the rounding of activations, to 1/254 of the largest of their group in each product, and of keys and values
    to fp16. In a toy's random weights that moves a gradient by 1 to 5% of its norm; a term that is missing or doubled
    moves it by 30% and more."""
    model = quantised(base)
    model.save(tmp_path / "plain")
    torch.manual_seed(seed)
    plain = moved(Trainee(load(tmp_path / "plain", dtype="float32"), LORA), seed)
    torch.manual_seed(seed)
    ours = moved(Trainee(model, LORA), seed)
    found, expected = ours.logprobs(SEQUENCES, FIRST), plain.logprobs(SEQUENCES, FIRST)
    torch.testing.assert_close(found, expected, rtol=0, atol=0.5)
    theirs = gradients_of(plain, expected)
    for name, gradient in gradients_of(ours, found).items():
        assert (gradient - theirs[name]).norm() <= 0.15 * theirs[name].norm() + 1e-6, name


@pytest.mark.parametrize("rows", [3, gradients.FEW_ROWS])
def test_packed_products_have_the_plain_ones_gradient(rows: int, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the same inputs, in parts, with an adapter and without, and with outputs that fill no panel."""
    monkeypatch.setattr(gradients, "PART", 16 * 64)
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, 64, generator=generator).requires_grad_()
    matrices = [Matrix.pack(torch.randn(n, 64, generator=generator), Format.Q4_0) for n in (40, 16, 7)]
    factors = [
        torch.randn(shape, generator=generator).requires_grad_() for shape in ((3, 64), (40, 3), (2, 64), (7, 2))
    ]
    grads = [torch.randn(rows, n, generator=generator) for n in (40, 16, 7)]
    (a, b, c, d), weights = factors, [matrix.unpack() for matrix in matrices]
    inner = torch.cat([x @ a.t(), x @ c.t()], -1).detach()
    ours = gradients.packed_linear(x, matrices, [0.5, None, 2.0], factors, inner)
    found = torch.autograd.grad(ours, [x, *factors], grads)
    ys = [x @ (weights[0] + 0.5 * b @ a).t(), x @ weights[1].t(), x @ (weights[2] + 2.0 * d @ c).t()]
    expected = torch.autograd.grad(ys, [x, *factors], grads)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-3)


def test_no_part_of_the_base_stays_in_fp32(base: Path, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unpacked are parts, one at a time, and only in backward."""
    largest = 64 * 64
    monkeypatch.setattr(gradients, "PART", largest)
    trainee = moved(Trainee(quantised(base), LORA), seed)
    alive: list[weakref.ref[Tensor]] = []
    unpack = Matrix.unpack
    most = 0

    def watched(matrix: Matrix, transposed: bool = False) -> Tensor:
        nonlocal most
        found = unpack(matrix, transposed)
        assert found.numel() <= largest
        alive.append(weakref.ref(found))
        most = max(most, sum(each() is not None for each in alive))
        return found

    monkeypatch.setattr(Matrix, "unpack", watched)
    logprobs = trainee.logprobs(SEQUENCES, FIRST)
    assert len(alive) == -(-288 // 64), "forward needs the slope of the head, in parts, and nothing else"
    torch.cat(logprobs).sum().backward()
    assert len(alive) > 10
    assert most <= 2, "the part before may be there until the next takes its name"
    frozen = [p for p in trainee.model.network.parameters() if not p.requires_grad]
    assert all(p.dim() < 2 or p.numel() == 0 for p in frozen), "a matrix of the base is there in fp32"


def test_what_is_saved_computes_the_same_when_it_is_loaded(base: Path, tmp_path: Path, seed: int) -> None:
    """As an engine's model, as one to train on, and as one directory of base and adapter."""
    model = quantised(base)
    with torch.no_grad():
        untouched = model.logprobs(SEQUENCES)
        trainee = moved(Trainee(model, LORA), seed)
        expected = trainee.logprobs(SEQUENCES, FIRST)
        trainee.save(tmp_path / "adapter")
        again = load(tmp_path / "adapter", quantize=base.name)  # type: ignore[arg-type]
        assert again.quantised
        found = [each[start - 1 :] for each, start in zip(again.logprobs(SEQUENCES), FIRST, strict=True)]
        assert all(map(torch.equal, found, expected))
        assert not torch.equal(again.logprobs(SEQUENCES)[0], untouched[0])
        further = Trainee(load(tmp_path / "adapter", quantize=base.name), LORA)  # type: ignore[arg-type]
        assert all(map(torch.equal, further.logprobs(SEQUENCES, FIRST), expected))
        again.save(tmp_path / "whole")
        assert all(map(torch.equal, again.logprobs(SEQUENCES), trainee.model.logprobs(SEQUENCES))), "saving changed it"
        summed = load(tmp_path / "whole", dtype="float32").logprobs(SEQUENCES)
        merged = load(tmp_path / "adapter", dtype="float32").logprobs(SEQUENCES)
    found = [each[start - 1 :] for each, start in zip(summed, FIRST, strict=True)]
    torch.testing.assert_close(found, expected, rtol=0, atol=0.5)  # without the rounding of activations
    assert not merged[0].isnan().any()


def test_the_plain_form_has_the_adapter_too(base: Path, seed: int) -> None:
    """PyTorch's own operations on a packed network: the reference of the engine's tests."""
    trainee = moved(Trainee(quantised(base), LORA), seed)
    group = trainee.model.network.model.layers[0].mlp.gate_up  # type: ignore[union-attr, operator]
    x = torch.randn(5, 64)
    with torch.no_grad():
        for y, module, matrix in zip(group(x), group.modules, group.matrices(), strict=True):
            torch.testing.assert_close(y, x @ module.factors.added_to(matrix.unpack()).t())


def test_killed_in_the_middle_it_ends_with_the_same_weights(tmp_path: Path, seed: int) -> None:
    """Reinforcement, with its rollouts by the engine over the same base."""
    draw = random.Random(seed)
    recipe = write(tmp_path / "toy", steps=8, kl=0.05, more="[stage.lora]\nrank = 4", quantised=True)
    whole = train(read_recipe(recipe), tmp_path / "whole", Heard())
    code, errors = train_until("kill", draw.randrange(2, 6), recipe, tmp_path / "killed", draw.random() / 100)
    assert code == -signal.SIGKILL, errors
    again = train(read_recipe(recipe), tmp_path / "killed", Heard())
    assert again["stages"]["grpo"]["sha256"] == whole["stages"]["grpo"]["sha256"]


def test_what_cannot_be(base: Path) -> None:
    with pytest.raises(BadRequest, match="give it an adapter"):
        Trainee(quantised(base))
    with pytest.raises(BadRequest, match="keep them apart"):
        Trainee(quantised(base), LORA).merged()
