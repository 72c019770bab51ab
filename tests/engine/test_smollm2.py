"""The real default model: its greedy text is transformers', and no circumstance of a batch changes a sample."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM

from millet.engine.engine import Engine
from millet.engine.sampling import Sampling
from millet.kernels.native import library
from millet.models.load import load
from millet.models.model import Model

PROMPTS = [
    "The capital of France is",
    "Once upon a time, in a small village by the sea,",
    "def fibonacci(n):\n    ",
    "Water boils at",
    "The three primary colours are",
    "Q: What is 12 plus 30?\nA:",
    "In 1969, the first humans",
    "A recipe for pancakes: first,",
    "The opposite of hot is",
    "import numpy as np\n\n",
    "My favourite book is",
    "The mitochondria is",
    "To be, or not to be,",
    "1, 2, 3, 4,",
    "Dear Sir or Madam,",
    "Photosynthesis is the process by which",
    "The largest planet in the solar system",
    "SELECT name FROM",
    "She opened the door and",
    "The quick brown fox",
]
TOKENS = 12
JUDGED = 12  # texts whose distributions are compared, which takes transformers longest


@pytest.fixture(scope="module", params=["as it comes", "float32", "torch"])
def model(request: pytest.FixtureRequest, smollm2_path: Path) -> Iterator[Model]:
    """On the native kernels, quantised as its file is, and in fp32; and in PyTorch."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "torch":
            patch.setattr(library, "_open", lambda: "switched off by a test")
        elif reason := library.why_not():
            pytest.skip(f"no native kernels: {reason}")
        model = load(smollm2_path, dtype="float32" if request.param == "float32" else None)
        assert model.native == (request.param != "torch")
        assert model.quantised == (request.param == "as it comes")
        yield model


@pytest.fixture(scope="module")
def plain(smollm2_path: Path) -> Model:
    return load(smollm2_path, dtype="float32")


@pytest.fixture(scope="module")
def prompts(plain: Model) -> list[list[int]]:
    return [plain.tokenizer.encode(text) for text in PROMPTS]


@pytest.fixture(scope="module")
def peer(plain: Model, tmp_path_factory: pytest.TempPathFactory) -> nn.Module:
    """The same dequantised weights in transformers."""
    directory = tmp_path_factory.mktemp("smollm2") / "model"
    plain.save(directory)
    # Greedy means greedy: not the sampling that the model's authors recommend.
    (directory / "generation_config.json").write_text(json.dumps({"eos_token_id": list(plain.eos_token_ids)}))
    return AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def expected(peer: nn.Module, prompts: list[list[int]]) -> list[list[int]]:
    """What transformers says, one prompt at a time."""
    outs = []
    with torch.inference_mode():
        for prompt in prompts:
            ids = torch.tensor([prompt])
            out = peer.generate(  # type: ignore[operator]
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=TOKENS, do_sample=False
            )
            outs.append(out[0, len(prompt) :].tolist())
    return outs


@pytest.fixture(scope="module")
def distributions(peer: nn.Module, prompts: list[list[int]], expected: list[list[int]]) -> list[torch.Tensor]:
    """transformers' log-probabilities after every token of every text. float64 [T, V] each"""
    return [
        logits_of(peer, [*prompt, *reply]).double().log_softmax(-1)
        for prompt, reply in zip(prompts[:JUDGED], expected, strict=False)
    ]


def texts(engine: Engine, prompts: list[list[int]], sampling: Sampling) -> list[list[int]]:
    return [samples[0].token_ids for samples in engine.generate(prompts, sampling)]


def test_greedy_text_is_that_of_transformers(
    model: Model, peer: nn.Module, prompts: list[list[int]], expected: list[list[int]]
) -> None:
    """In fp32, token for token. Quantised, activations are as well: there a close call may fall the other way."""
    greedy = Sampling(temperature=0.0, max_tokens=TOKENS)
    with Engine(model, cache_tokens=4096) as engine:
        alone = [texts(engine, [prompt], greedy)[0] for prompt in prompts]
    with Engine(model, cache_tokens=4096, max_batch=16) as engine:
        assert texts(engine, prompts, greedy) == alone
    if not model.quantised:
        assert alone == expected
        return
    different = [i for i in range(len(prompts)) if alone[i] != expected[i]]
    assert len(different) <= len(prompts) // 2
    for i in different:
        at = next(n for n, (a, b) in enumerate(zip(alone[i], expected[i], strict=False)) if a != b)
        logits_V = logits_of(peer, [*prompts[i], *expected[i][:at]])[-1]
        assert logits_V[expected[i][at]] - logits_V[alone[i][at]] < 0.3


def logits_of(peer: nn.Module, ids: list[int]) -> torch.Tensor:
    with torch.inference_mode():
        return peer(torch.tensor([ids])).logits[0]  # type: ignore[no-any-return]


def test_distributions_are_those_of_transformers(
    model: Model, prompts: list[list[int]], expected: list[list[int]], distributions: list[torch.Tensor]
) -> None:
    """After every token of every text: equal in fp32, and as close as 8-bit activations allow where it is quantised."""
    divergences = []
    for prompt, reply, theirs in zip(prompts, expected, distributions, strict=False):
        ours = model.logits([*prompt, *reply]).double().log_softmax(-1)
        divergences.append((theirs.exp() * (theirs - ours)).sum(-1))
    found = torch.cat(divergences)
    assert len(found) > 200
    assert found.mean() < (0.01 if model.quantised else 1e-7)
    assert found.max() < (0.1 if model.quantised else 1e-5)


def test_no_circumstance_changes_a_sample(model: Model, prompts: list[list[int]]) -> None:
    """Alone or in a batch, whole or in chunks, cold or from a cached prefix, preempted or not, guessing or not."""
    sampling = Sampling(temperature=0.8, top_p=0.95, seed=11, max_tokens=TOKENS)
    few = [prompts[0] * 3, prompts[2], prompts[5], prompts[13]]
    with Engine(model, cache_tokens=2048, speculation="off") as engine:
        alone = [texts(engine, [prompt], sampling)[0] for prompt in few]
        assert texts(engine, few, sampling) == alone  # in a batch, from a warm prefix cache
    with Engine(model, cache_tokens=2048, chunk=7, speculation="ngram") as engine:
        assert texts(engine, few, sampling) == alone
    with Engine(model, cache_tokens=96, speculation="off") as engine:
        assert texts(engine, few, sampling) == alone
        assert engine.stats()["preemptions"] > 0


def test_logprobs_are_those_of_the_trainers_forward(model: Model, prompts: list[list[int]]) -> None:
    with Engine(model, cache_tokens=2048) as engine:
        out = engine.generate([prompts[1]], Sampling(temperature=1.0, seed=3, max_tokens=TOKENS, logprobs=True))[0][0]
    with torch.no_grad():
        own = model.logprobs([[*prompts[1], *out.token_ids]])[0]
    assert out.logprobs == pytest.approx(own[-len(out.token_ids) :].tolist(), abs=1e-4)
