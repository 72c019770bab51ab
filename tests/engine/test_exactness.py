"""Invariants 1 and 2, bit for bit: what a sequence is given does not depend on its circumstances, and the engine's
log-probabilities are those of the trainer's forward."""

import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from millet.engine.engine import Completion, Engine
from millet.engine.sampling import Sampling
from millet.errors import BadRequest
from millet.models.config import ModelConfig
from millet.models.load import load
from millet.models.model import Model
from millet.models.network import build
from tests.kernels.steps import threads
from tests.models.files import VOCAB, toy, write_directory
from tests.models.toy import V3, randomise

pytestmark = pytest.mark.usefixtures("with_native")

MTP_SETTINGS = V3 | VOCAB | {"model_type": "deepseek_v3", "norm_topk_prob": True, "num_nextn_predict_layers": 1}
MTP_SETTINGS.pop("num_mtp_layers")
NEW = 24  # tokens of a reply
NEW_OF_THE_REAL_ONE = 10  # whose steps take longest


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Model]:
    """Models by name, each made once: toys with random weights, and the real one as a person gets it and in fp32."""
    models: dict[str, Model] = {}
    seed = random.randrange(2**31)

    def get(name: str, smollm2: Callable[[], Path] | None = None) -> Model:
        print(f"seed of the weights = {seed}")
        if name not in models:
            directory = tmp_path_factory.mktemp("toy") / "model"
            if name.startswith("smollm2"):
                assert smollm2 is not None
                models[name] = load(smollm2(), dtype="float32" if "float32" in name else None)
            elif name.startswith("deepseek"):
                models[name] = load(mtp_directory(directory, seed))
            else:
                size = {"hidden_size": 64, "intermediate_size": 96} if "q4" in name else {}
                write_directory(toy("qwen3", seed, **size), directory)
                models[name] = load(directory, quantize="q4" if "q4" in name else None)
        return models[name]

    return get


def mtp_directory(directory: Path, seed: int) -> Path:
    """A DeepSeek with latent attention, experts and one MTP module; transformers has no MTP, so Millet saves it."""
    plain = load(write_directory(toy("deepseek_v3", seed), directory.with_name("plain")))
    network = build(ModelConfig.from_hf(plain.config.hf | MTP_SETTINGS)).eval()
    randomise(network, seed)
    plain.network.unpack()
    plain.network, plain.config = network, network.config
    plain.save(directory)
    return directory


NAMES = ["qwen3", "qwen3-q4", "deepseek", "smollm2", "smollm2-float32"]


@pytest.fixture(scope="module")
def known() -> dict[int, tuple[Model, list[list[int]], list[list[tuple]]]]:
    """Prompts and what each is answered alone, by model: drawn and computed once for all tests here."""
    return {}


@pytest.fixture(params=NAMES)
def model(request: pytest.FixtureRequest, loaded: Callable) -> Model:
    return loaded(request.param, lambda: request.getfixturevalue("smollm2_path"))  # type: ignore[no-any-return]


def draw_prompts(model: Model, seed: int) -> list[list[int]]:
    """Of all lengths around a block's; two begin alike, and one repeats itself, so that there is something to guess."""
    rng = random.Random(seed)
    lengths = [1, 15, 16, 17, 40, 100] if is_toy(model) else [1, 17, 40, 530]
    made = {n: [rng.randrange(3, model.config.vocab_size) for _ in range(n)] for n in lengths}
    return [*made.values(), [*made[40][:33], 5, 6, 7], (made[17][:5] * 8)[:38]]


def is_toy(model: Model) -> bool:
    return model.config.hidden_size < 100


def sampling(model: Model, **more: object) -> Sampling:
    new = NEW if is_toy(model) else NEW_OF_THE_REAL_ONE
    return Sampling(temperature=0.9, seed=5, max_tokens=new, ignore_eos=True, logprobs=True, **more)  # type: ignore[arg-type]


def bits(completions: list[list[Completion]]) -> list[list[tuple]]:
    """Everything that must not change: tokens, and log-probabilities to the last bit."""
    return [[(c.token_ids, c.logprobs) for c in samples] for samples in completions]


def same(found: list[list[Completion]], expected: list[list[tuple]]) -> bool:
    return bits(found) == expected


@pytest.fixture
def prompts(model: Model, known: dict, seed: int) -> list[list[int]]:
    """See `draw_prompts`. With them goes what each is answered alone, whole, cold, on one thread, without guesses."""
    if id(model) not in known:
        drawn, outs = draw_prompts(model, seed), []
        with threads(1):
            for prompt in drawn:
                with Engine(model, cache_tokens=1024, chunk=1024, speculation="off") as engine:
                    outs += engine.generate([prompt], sampling(model))
        assert len({tuple(c.token_ids) for samples in outs for c in samples}) == len(drawn)
        known[id(model)] = model, drawn, bits(outs)
    print(f"prompts = {known[id(model)][1]}")
    return known[id(model)][1]  # type: ignore[no-any-return]


@pytest.fixture
def expected(model: Model, prompts: list[list[int]], known: dict) -> list[list[tuple]]:
    return known[id(model)][2]  # type: ignore[no-any-return]


def test_batch_chunks_prefixes_and_threads_change_no_bit(
    model: Model, prompts: list[list[int]], expected: list[list[tuple]]
) -> None:
    ways = [(5, 16, 2), (32, 1024, 2)]
    if is_toy(model):
        ways += [(1, 64, 1), (32, 256, 1), (3, 3, 2), (1, 1, 1)]
    for batch, chunk, count in ways:
        options = {"cache_tokens": 8192, "max_batch": batch, "chunk": chunk, "speculation": "off"}
        with threads(count), Engine(model, **options) as engine:  # type: ignore[arg-type]
            assert same(engine.generate(prompts, sampling(model)), expected), (batch, chunk, count, "cold")
            warm = engine.generate(prompts, sampling(model))
            assert same(warm, expected), (batch, chunk, count, "from cached prefixes")
            assert sum(samples[0].cached_tokens for samples in warm) > 50


def test_32_at_once_and_several_samples_change_no_bit(
    model: Model, prompts: list[list[int]], expected: list[list[tuple]]
) -> None:
    with Engine(model, cache_tokens=16384, max_batch=32, speculation="off") as engine:
        times = -(-32 // len(prompts))
        found = engine.generate(prompts * times, sampling(model))
        assert same(found, expected * times)
        forked = engine.generate(prompts[:5], sampling(model, n=3))
        assert [samples[:1] for samples in bits(forked)] == expected[:5]
        again = engine.generate(prompts[4::-1], sampling(model, n=3))
        assert same(again, bits(forked)[::-1])


@pytest.mark.parametrize("how", ["ngram", "mtp"])
def test_guessing_changes_no_bit(model: Model, prompts: list[list[int]], expected: list[list[tuple]], how: str) -> None:
    if how == "mtp" and not model.config.mtp_layers:
        pytest.skip("the model has no MTP module")
    for batch, chunk in [(8, 37), (1, 256)] if is_toy(model) else [(8, 37)]:
        with Engine(model, cache_tokens=4096, max_batch=batch, chunk=chunk, speculation=how) as engine:  # type: ignore[arg-type]
            engine._runner.gate.open = lambda batch: True  # type: ignore[method-assign]
            assert same(engine.generate(prompts, sampling(model)), expected)
            assert same(engine.generate(prompts, sampling(model)), expected)
            if how == "mtp":
                assert engine.stats()["drafted"] > 50


def test_greedy_guesses_are_taken_and_change_no_bit(model: Model, prompts: list[list[int]]) -> None:
    """Greedy text repeats itself soon, so that whole guesses are right, and rows behind guesses count."""
    greedy = Sampling(temperature=0.0, max_tokens=60, ignore_eos=True, logprobs=True)
    with Engine(model, cache_tokens=2048, speculation="off") as engine:
        plain = bits(engine.generate(prompts, greedy))
    with Engine(model, cache_tokens=2048, max_batch=8, speculation="ngram") as engine:
        engine._runner.gate.open = lambda batch: True  # type: ignore[method-assign]
        assert same(engine.generate(prompts, greedy), plain)
        assert engine.stats()["drafted"] > 0


def test_preemption_changes_no_bit(model: Model, prompts: list[list[int]], expected: list[list[tuple]]) -> None:
    few = [i for i, prompt in enumerate(prompts) if len(prompt) < 100]
    with Engine(model, cache_tokens=112, max_batch=8, chunk=32, speculation="off") as engine:
        found = engine.generate([prompts[i] for i in few], sampling(model))
        assert same(found, [expected[i] for i in few])
        assert engine.stats()["preemptions"] > 0


def own_logprobs(
    model: Model, prompts: list[list[int]], expected: list[list[tuple]]
) -> tuple[list[Tensor], list[Tensor]]:
    """The trainer's log-probabilities of each reply, all in one pack; and the engine's."""
    texts = [[*prompt, *samples[0][0]] for prompt, samples in zip(prompts, expected, strict=True)]
    found = [row[len(prompt) - 1 :] for prompt, row in zip(prompts, model.logprobs(texts), strict=True)]
    return found, [torch.tensor(samples[0][1]) for samples in expected]


def test_the_engine_and_the_trainers_forward_agree_to_the_last_bit(
    model: Model, prompts: list[list[int]], expected: list[list[tuple]]
) -> None:
    for count in (1, 2):
        with threads(count), torch.no_grad():
            for ours, theirs in zip(*own_logprobs(model, prompts, expected), strict=True):
                assert torch.equal(ours, theirs)


@pytest.mark.parametrize("name", ["qwen3", "deepseek", "smollm2-float32"])
def test_so_they_do_with_gradients_and_in_exact_mode(
    name: str, loaded: Callable, request: pytest.FixtureRequest, seed: int
) -> None:
    model: Model = loaded(name, lambda: request.getfixturevalue("smollm2_path"))
    rng = random.Random(seed)
    lengths = (3, 20, 9) if is_toy(model) else (3,)
    prompts = [[rng.randrange(3, model.config.vocab_size) for _ in range(n)] for n in lengths]
    with Engine(model, cache_tokens=1024, exact=True) as engine:
        expected = bits(engine.generate(prompts, sampling(model)))
        found, theirs = own_logprobs(model, prompts, expected)  # unpacks the weights under the engine
        assert all(row.requires_grad for row in found)
        for ours, row in zip(found, theirs, strict=True):
            assert torch.equal(ours.detach(), row)
        assert same(engine.generate(prompts, sampling(model)), expected), "it goes on as if nothing had happened"
    grads = gradients(model, found)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("millet.kernels.native.library._open", lambda: "switched off by a test")
        plain, _ = own_logprobs(model, prompts, expected)
        theirs_by_name = gradients(model, plain)
    for ours, row in zip(found, plain, strict=True):
        torch.testing.assert_close(ours, row, atol=1e-3, rtol=1e-4)
    assert grads.keys() == theirs_by_name.keys()
    for name, grad in grads.items():
        size = theirs_by_name[name].norm().clamp(min=1e-3)
        assert (grad - theirs_by_name[name]).norm() <= 2e-3 * size, name


def gradients(model: Model, rows: list[Tensor]) -> dict[str, Tensor]:
    model.network.zero_grad(set_to_none=True)
    torch.cat(rows).mean().backward()
    found = {name: p.grad.clone() for name, p in model.network.named_parameters() if p.grad is not None}
    model.network.zero_grad(set_to_none=True)
    assert len(found) > 20
    return {name: grad for name, grad in found.items() if grad.abs().max() > 0}


def test_a_trained_weight_changes_the_trainers_forward_at_once(loaded: Callable, seed: int) -> None:
    model: Model = loaded("qwen3, trained")  # its own: what others expect of theirs would no longer hold
    ids = [[5, 9, 13, 17, 21]]
    before = model.logprobs(ids)[0]
    model.network.zero_grad(set_to_none=True)
    before.sum().backward()
    with torch.no_grad():
        for parameter in model.network.parameters():
            if parameter.grad is not None:
                parameter += 1e-3 * parameter.grad
    after = model.logprobs(ids)[0]
    assert after.sum() > before.sum()
    with Engine(model, cache_tokens=64) as engine:
        out = engine.generate([ids[0][:1]], sampling(model))[0][0]
    with torch.no_grad():
        assert torch.equal(model.logprobs([[ids[0][0], *out.token_ids]])[0], torch.tensor(out.logprobs))


def test_exact_mode_is_refused_where_it_cannot_be_had(tmp_path: Path, seed: int) -> None:
    directory = write_directory(toy("qwen3", seed), tmp_path / "toy")
    with pytest.raises(BadRequest, match="bfloat16 on cpu"):
        Engine(load(directory, dtype="bfloat16"), cache_tokens=64, exact=True)
    for quantize in (None, "q8"):
        Engine(load(directory, quantize=quantize), cache_tokens=64, exact=True).close()


def test_exact_mode_without_the_native_kernels_is_refused(tmp_path: Path, seed: int) -> None:
    directory = write_directory(toy("qwen3", seed), tmp_path / "toy")
    code = f"""
import millet
model = millet.load({str(directory)!r})
assert not model.native
with millet.Engine(model, cache_tokens=64) as engine:
    engine.generate([[1, 2, 3]], millet.Sampling(max_tokens=3))
try:
    millet.Engine(model, cache_tokens=64, exact=True)
except millet.MilletError as error:
    print(type(error).__name__, error)
try:
    millet.load({str(directory)!r}, quantize="q8")
except millet.MilletError as error:
    print(type(error).__name__, error)
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"MILLET_KERNELS": "off"},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert first.startswith("BadRequest exact=True needs fp32 and the native kernels on a CPU: MILLET_KERNELS=off")
    assert second.startswith("BadRequest quantize='q8' needs the native kernels on a CPU: MILLET_KERNELS=off")


def test_an_engine_that_let_go_of_its_memory_has_the_weights_of_now(tmp_path: Path, seed: int) -> None:
    """With copies for a network in training; the next request makes them anew, by itself or by a refresh."""
    model = load(write_directory(toy("llama", seed), tmp_path / "model"))
    model.network.unpack()
    model.network.train()
    sampling = Sampling(temperature=0.0, max_tokens=NEW, logprobs=True, ignore_eos=True)
    with Engine(model, cache_tokens=1024) as engine:
        before = engine.generate([[5, 6, 7]], sampling)
        engine.release()
        assert not any(group._copies for group in model.network.groups())
        assert engine.generate([[5, 6, 7]], sampling)[0][0].logprobs == before[0][0].logprobs
        with torch.no_grad():
            model.network.model.norm.weight.mul_(1.5)
            model.network.model.layers[0].mlp.up_proj.weight.mul_(-1)
        engine.release()
        engine.refresh()
        ((after,),) = engine.generate([[5, 6, 7]], sampling)
        (expected,) = model.logprobs([[5, 6, 7, *after.token_ids]])
        torch.testing.assert_close(torch.tensor(after.logprobs), expected[2:].detach(), rtol=0, atol=1e-4)
        assert after.logprobs != before[0][0].logprobs
        generation = engine.submit([5, 6, 7], Sampling(max_tokens=900, ignore_eos=True))
        with pytest.raises(BadRequest, match=r"before release\(\)"):
            engine.release()
        generation.cancel()
        generation.result()


def test_a_refreshed_engine_has_the_weights_of_now(tmp_path: Path, seed: int) -> None:
    """A step of training between two batches: the next tokens and log-probabilities are those of a new engine."""
    model = load(write_directory(toy("qwen3", seed), tmp_path / "model"))
    prompts = [[5, 6, 7, 8] * 8, [9, 10, 11]]
    sampling = Sampling(temperature=0.0, max_tokens=NEW, logprobs=True, ignore_eos=True)
    with Engine(model, exact=True, cache_tokens=1024) as engine:
        before = engine.generate(prompts, sampling)
        sum(each.sum() for each in model.logprobs(prompts)).backward()
        with torch.no_grad():
            for parameter in model.network.parameters():
                parameter += 0.05 * parameter.grad.sign()
        engine.refresh()
        after = engine.generate(prompts, sampling)
        with torch.no_grad():
            for (sample,), prompt in zip(after, prompts, strict=True):
                (expected,) = model.logprobs([[*prompt, *sample.token_ids]])
                assert sample.logprobs == expected[len(prompt) - 1 :].tolist()
        generation = engine.submit(prompts[0], Sampling(max_tokens=900, ignore_eos=True))
        with pytest.raises(BadRequest, match="under way"):
            engine.refresh()
        generation.cancel()
        generation.result()
    with Engine(model, exact=True, cache_tokens=1024) as fresh:
        assert [[each.token_ids for each in samples] for samples in fresh.generate(prompts, sampling)] == [
            [each.token_ids for each in samples] for samples in after
        ]
    assert before != after
