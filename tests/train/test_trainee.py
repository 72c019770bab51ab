"""The trainee's log-probabilities and gradients against the model's own, sequence by sequence, and what it saves."""

import json
import random
from pathlib import Path

import pytest
import torch
import transformers
from torch import Tensor

from millet.engine.engine import Engine
from millet.engine.sampling import Sampling
from millet.errors import BadRequest, PromptTooLong
from millet.kernels.block_cache import BLOCK_SIZE
from millet.models.load import load
from millet.models.model import Model
from millet.train.lora import LoraConfig
from millet.train.prefixes import distinct
from millet.train.trainee import Trainee
from tests.models.files import toy, write_directory

LORA = LoraConfig(rank=4, alpha=8.0)
PROMPT = [5, 9, 60, 31, 12]
SEQUENCES = [
    [7, 3, 99, 14, 200, 8],
    [*PROMPT, 44, 45, 101],
    [*PROMPT, 17],
    [*PROMPT, 6, 91, 92, 93, 94, 95, 96],
    [4, 8],
    [11],
]
FIRST = [2, 5, 5, 5, 1, 1]  # the three in the middle share their prompt


@pytest.fixture
def directory(tmp_path: Path, seed: int) -> Path:
    return write_directory(toy("llama-tied", seed), tmp_path / "base")


def fresh(directory: Path) -> Model:
    return load(directory, dtype="float32")


def moved(trainee: Trainee, seed: int) -> Trainee:
    """With an adapter that does something: B is zero at first, and A has no gradient while it is."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in trainee.parameters.items():
            if "lora_B" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return trainee


def gradients(trainee: Trainee, logprobs: list[Tensor]) -> dict[str, Tensor]:
    weights = torch.linspace(-1, 2, sum(map(len, logprobs)))
    found = torch.autograd.grad(
        (torch.cat(logprobs) * weights).sum(), list(trainee.parameters.values()), materialize_grads=True
    )
    return dict(zip(trainee.parameters, found, strict=True))


def alone(trainee: Trainee) -> list[Tensor]:
    """Each sequence by itself, no packing or sharing."""
    return [trainee.logprobs([ids], [start])[0] for ids, start in zip(SEQUENCES, FIRST, strict=True)]


def assert_same_gradients(ours: dict[str, Tensor], theirs: dict[str, Tensor], tolerance: float = 1e-5) -> None:
    assert ours.keys() == theirs.keys()
    for name, gradient in theirs.items():
        scale = max(1.0, gradient.abs().max().item())
        torch.testing.assert_close(
            ours[name], gradient, rtol=0, atol=tolerance * scale, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.parametrize("exact", [False, True])
def test_logits_are_divided_by_the_temperature(exact: bool, tmp_path: Path, seed: int) -> None:
    trainee = Trainee(fresh(write_directory(toy("llama-biases", seed), tmp_path / "base")), LORA, exact=exact)
    moved(trainee, seed)
    ours = trainee.logprobs(SEQUENCES, FIRST, 0.6)
    hidden_ND, targets_N = trainee.hidden(SEQUENCES, FIRST)
    table_NV = (hidden_ND @ trainee.head.T / 0.6).log_softmax(-1)
    theirs = list(table_NV.gather(1, targets_N[:, None])[:, 0].split([len(each) for each in ours]))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
    assert_same_gradients(gradients(trainee, ours), gradients(trainee, theirs))
    assert not torch.allclose(torch.cat(ours), torch.cat(trainee.logprobs(SEQUENCES, FIRST)))


@pytest.mark.parametrize("case", ["llama-biases", "qwen3-tied", "deepseek_v2", "deepseek_v3"])
@pytest.mark.parametrize("lora", [None, LORA], ids=["full", "lora"])
def test_packed_and_shared_as_if_each_sequence_were_alone(
    case: str, lora: LoraConfig | None, tmp_path: Path, seed: int
) -> None:
    model = fresh(write_directory(toy(case, seed), tmp_path / "base"))
    with torch.no_grad():
        expected = [model.logprobs([ids])[0][start - 1 :] for ids, start in zip(SEQUENCES, FIRST, strict=True)]
    trainee = Trainee(model, lora)
    together = trainee.logprobs(SEQUENCES, FIRST)
    assert [len(each) for each in together] == [4, 3, 1, 7, 1, 0]
    torch.testing.assert_close(together, expected, rtol=0, atol=1e-4)
    moved(trainee, seed)
    # In fp64: in fp32 rounding alone moves some gradient by 1e-5 of the largest for one seed in a hundred.
    trainee.model.network.double()
    tolerance = 1e-5 if "deepseek" in case else 1e-10  # whose router is fp32
    together, apart = trainee.logprobs(SEQUENCES, FIRST), alone(trainee)
    torch.testing.assert_close(together, apart, rtol=0, atol=tolerance, check_dtype=False)  # of no tokens it is fp32
    assert_same_gradients(gradients(trainee, together), gradients(trainee, apart), tolerance)


SYSTEM = [5, 9, 60, 31, 12, 44, 45, 101, 7, 3, 99, 14, 200, 8, 17, 6, 91, 92]  # a cache block and two tokens


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.usefixtures("with_native")
def test_what_all_prompts_begin_with_is_computed_once(
    directory: Path, exact: bool, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainee = moved(Trainee(fresh(directory), LORA, exact=exact), seed)
    prompts = [[*SYSTEM, 1, 2, 3], SYSTEM, [*SYSTEM, 1, 4]]  # one goes on where another ends
    sequences = [[*prompt, 30 + i, 40, 50] for i, prompt in enumerate(prompts)]
    first = [len(prompt) for prompt in prompts]
    shared = BLOCK_SIZE if exact else len(SYSTEM)
    _, batch = trainee._batch(sequences, first)
    assert batch is not None
    assert len(batch.ids) == sum(len(ids) - 1 for ids in sequences) - 2 * shared
    together = trainee.logprobs(sequences, first)
    apart = [trainee.logprobs([ids], [start])[0] for ids, start in zip(sequences, first, strict=True)]
    torch.testing.assert_close(together, apart, rtol=0, atol=0 if exact else 1e-4)
    assert_same_gradients(gradients(trainee, together), gradients(trainee, apart), 1e-4)


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.usefixtures("with_native")
def test_what_replies_say_alike_is_computed_once(directory: Path, exact: bool, seed: int) -> None:
    """Random trees of them: some the same, some cut off where another goes on, some parting late."""
    rng = random.Random(seed)
    trainee = moved(Trainee(fresh(directory), LORA, exact=exact), seed)
    for _ in range(4):
        prompt = SYSTEM[: rng.randrange(1, len(SYSTEM))]
        replies = [[rng.randrange(200) for _ in range(60)]]
        for _ in range(6):
            trunk = rng.choice(replies)
            at = rng.randint(1, len(trunk))
            replies.append(trunk[:at] + [rng.randrange(200) for _ in range(rng.choice((0, 1, 30)))])
        sequences = [[*prompt, *reply] for reply in [*replies, replies[0]]]
        first = [len(prompt)] * len(sequences)
        together = trainee.logprobs(sequences, first)
        apart = [trainee.logprobs([ids], [start])[0] for ids, start in zip(sequences, first, strict=True)]
        torch.testing.assert_close(together, apart, rtol=0, atol=0 if exact else 1e-4, check_dtype=False)
        assert_same_gradients(gradients(trainee, together), gradients(trainee, apart), 1e-4)
        _, batch = trainee._batch(sequences, first)
        assert batch is not None
        inputs = {tuple(ids[:n]) for ids in sequences for n in range(1, len(ids))}
        assert len(inputs) <= len(batch.ids) < sum(map(len, sequences))
        assert distinct(sequences) == len({tuple(ids[:n]) for ids in sequences for n in range(1, len(ids) + 1)})


def test_one_reply_that_begins_as_another_needs_no_rows(directory: Path) -> None:
    _, batch = Trainee(fresh(directory))._batch([[1, 2, 3, 4, 5], [1, 2, 9], [1, 2, 3, 4, 5]], [2, 2, 2])
    assert batch is not None
    assert batch.ids == [1, 2, 3, 4]
    assert batch.rows == [1, 2, 3, 1]
    assert batch.targets == [3, 4, 5, 9]
    assert batch.places == [0, 1, 2, 3, 0, 1, 2]


def test_gradients_are_those_of_transformers(directory: Path, seed: int) -> None:
    peer = transformers.LlamaForCausalLM.from_pretrained(directory, dtype=torch.float32)
    theirs = []
    for ids, start in zip(SEQUENCES, FIRST, strict=True):
        logprobs = peer(torch.tensor([ids])).logits[0].log_softmax(-1)
        theirs.append(logprobs[torch.arange(start - 1, len(ids) - 1), torch.tensor(ids[start:], dtype=torch.int64)])
    trainee = Trainee(fresh(directory))
    ours = trainee.logprobs(SEQUENCES, FIRST)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)
    weights = torch.linspace(-1, 2, sum(map(len, theirs)))
    named = {name: parameter for name, parameter in peer.named_parameters() if name in trainee.parameters}
    expected = torch.autograd.grad((torch.cat(theirs) * weights).sum(), list(named.values()))
    assert_same_gradients(gradients(trainee, ours), dict(zip(named, expected, strict=True)))


@pytest.mark.parametrize("lora", [None, LORA], ids=["full", "lora"])
@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.usefixtures("with_native")
def test_checkpointing_changes_nothing(directory: Path, lora: LoraConfig | None, exact: bool, seed: int) -> None:
    torch.manual_seed(seed)
    plain = moved(Trainee(fresh(directory), lora, exact=exact), seed)
    torch.manual_seed(seed)
    checkpointed = moved(Trainee(fresh(directory), lora, checkpointing=True, exact=exact), seed)
    ours, theirs = checkpointed.logprobs(SEQUENCES, FIRST), plain.logprobs(SEQUENCES, FIRST)
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    assert_same_gradients(gradients(checkpointed, ours), gradients(plain, theirs), 1e-6)


@pytest.mark.parametrize("case", ["llama-tied", "qwen3", "deepseek_v3"])
@pytest.mark.parametrize("lora", [None, LORA], ids=["full", "lora"])
@pytest.mark.usefixtures("with_native")
def test_exact_and_fast_agree(case: str, lora: LoraConfig | None, tmp_path: Path, seed: int) -> None:
    directory = write_directory(toy(case, seed), tmp_path / "base")
    torch.manual_seed(seed)
    fast = moved(Trainee(fresh(directory), lora), seed)
    torch.manual_seed(seed)
    exact = moved(Trainee(fresh(directory), lora, exact=True), seed)
    ours, theirs = exact.logprobs(SEQUENCES, FIRST), fast.logprobs(SEQUENCES, FIRST)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)
    assert_same_gradients(gradients(exact, ours), gradients(fast, theirs), 1e-3)


@pytest.mark.parametrize("lora", [None, LORA], ids=["full", "lora"])
@pytest.mark.usefixtures("with_native")
def test_an_exact_trainee_has_the_bits_of_the_engine_through_steps(
    directory: Path, lora: LoraConfig | None, seed: int
) -> None:
    model = load(directory)
    trainee = moved(Trainee(model, lora, exact=True), seed)
    sampling = Sampling(temperature=1.0, seed=seed, max_tokens=9, n=3, logprobs=True, ignore_eos=True)
    said = []
    with Engine(model, cache_tokens=512, exact=True) as engine:
        for _ in range(2):
            outs = engine.generate([PROMPT], sampling)[0]
            sequences = [[*PROMPT, *out.token_ids] for out in outs]
            logprobs = trainee.logprobs(sequences, [len(PROMPT)] * 3)
            assert [each.tolist() for each in logprobs] == [out.logprobs for out in outs]
            said.append([out.logprobs for out in outs])
            found = gradients(trainee, logprobs)
            with torch.no_grad():
                for name, gradient in found.items():
                    trainee.parameters[name] -= 0.01 * gradient
            engine.refresh()
    assert said[0] != said[1], "the engine did not hear of the step"


def test_parameters_keep_their_identity(directory: Path) -> None:
    """Whatever is computed meanwhile: an optimiser holds on to them."""
    trainee = Trainee(fresh(directory))
    before = dict(trainee.parameters)
    trainee.logprobs(SEQUENCES)[0].sum().backward()
    with Engine(trainee.model, cache_tokens=512) as engine:
        engine.generate([PROMPT], Sampling(max_tokens=2, temperature=0.0))
    trainee.logprobs(SEQUENCES)
    network = dict(trainee.model.network.named_parameters())
    assert all(network[name] is parameter and parameter.grad is not None for name, parameter in before.items())


@pytest.mark.parametrize("lora", [None, LORA], ids=["full", "lora"])
def test_what_is_saved_is_what_was_trained(directory: Path, lora: LoraConfig | None, tmp_path: Path, seed: int) -> None:
    trainee = moved(Trainee(fresh(directory), lora), seed)
    with torch.no_grad():
        for parameter in trainee.parameters.values():
            parameter.mul_(1.1)
        expected = trainee.logprobs(SEQUENCES, FIRST)
        merged = trainee.merged()
        torch.testing.assert_close(
            [each[start - 1 :] for each, start in zip(merged.logprobs(SEQUENCES), FIRST, strict=True)],
            expected,
            rtol=0,
            atol=1e-4,
        )
        trainee.save(tmp_path / "saved")
        trainee.save(tmp_path / "saved")  # over itself
        again = load(tmp_path / "saved", dtype="float32").logprobs(SEQUENCES)
    torch.testing.assert_close(
        [each[start - 1 :] for each, start in zip(again, FIRST, strict=True)], expected, rtol=0, atol=1e-4
    )
    merged.network.pack()
    assert all(parameter.numel() for parameter in trainee.parameters.values()), "packing a copy took the weights away"


def test_training_goes_on_with_an_adapter(directory: Path, tmp_path: Path, seed: int) -> None:
    trainee = moved(Trainee(fresh(directory), LORA), seed)
    trainee.save(tmp_path / "adapter")
    again = Trainee(load(tmp_path / "adapter", dtype="float32"), LORA)
    assert again.parameters.keys() == trainee.parameters.keys()
    assert all(torch.equal(p, trainee.parameters[name]) for name, p in again.parameters.items())
    with torch.no_grad():
        ours, theirs = again.logprobs(SEQUENCES), trainee.logprobs(SEQUENCES)
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    again.save(tmp_path / "again")
    configs = [json.loads((tmp_path / name / "adapter_config.json").read_text()) for name in ("adapter", "again")]
    assert configs[0] == configs[1]
    with pytest.raises(BadRequest, match="rank 4"):
        Trainee(load(tmp_path / "adapter", dtype="float32"), LoraConfig(rank=8))


def test_impossible_requests(directory: Path) -> None:
    model = fresh(directory)
    model.quantised = True
    with pytest.raises(BadRequest, match="give it an adapter"):
        Trainee(model)
    trainee = Trainee(fresh(directory))
    with pytest.raises(BadRequest, match="at least 1"):
        trainee.logprobs([[1, 2]], [0])
    with pytest.raises(PromptTooLong):
        trainee.logprobs([[1] * 300])
    assert [len(each) for each in trainee.logprobs([[1], []])] == [0, 0]
