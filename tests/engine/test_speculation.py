import itertools
import random

import pytest
import torch

from millet.engine.forward import TorchForward
from millet.engine.runner import Runner
from millet.engine.sampling import Sampling
from millet.engine.sequence import Sequence
from millet.engine.speculation import Gate, PromptLookup
from millet.kernels.paged import PagedCache
from millet.models.config import ModelConfig
from millet.models.network import build
from tests.engine.fakes import VOCAB, FakeNetwork, fake_forward
from tests.models.toy import V3, randomise


def sequence(tokens) -> Sequence:
    return Sequence(tokens, Sampling(), max_length=1000)


def brute_force(tokens: list[int], width: int, length: int) -> list[int]:
    for end in range(len(tokens) - 1, width - 1, -1):
        if tokens[end - width : end] == tokens[-width:]:
            return tokens[end : end + length]
    return []


def test_lookup_finds_the_latest_earlier_occurrence_as_the_text_grows(seed):
    rng = random.Random(seed)
    lookup = PromptLookup(width=2, length=4)
    s = sequence([rng.randrange(3) for _ in range(5)])
    for _ in range(200):
        assert lookup.propose(s) == brute_force(s.token_ids, 2, 4)
        s.token_ids += [rng.randrange(3) for _ in range(rng.randrange(1, 4))]


def test_lookup_has_nothing_to_say_of_new_or_short_text():
    lookup = PromptLookup(width=3)
    assert lookup.propose(sequence([1, 2])) == []
    assert lookup.propose(sequence([1, 2, 3, 4, 5])) == []


def play(gate: Gate, steps: int, *, plain: float, guessed: float, accepted: float, batch: int = 1) -> list[bool]:
    """What the gate decides over `steps` steps in which guessing has this price and brings this much."""
    decisions = []
    for _ in range(steps):
        opened = gate.open(batch)
        decisions.append(opened)
        gate.record(
            batch,
            seconds=guessed if opened else plain,
            tokens=batch + (round(accepted * batch) if opened else 0),
            drafted=3 * batch if opened else 0,
        )
    return decisions


def test_the_gate_stays_open_while_guessing_pays():
    decisions = play(Gate(), 200, plain=1.0, guessed=1.3, accepted=2)
    assert decisions.count(False) == Gate.PROBE


def test_the_gate_closes_when_guessing_does_not_pay_and_tries_less_and_less():
    decisions = play(Gate(), 3000, plain=1.0, guessed=1.3, accepted=0)
    assert decisions.count(True) < 0.02 * len(decisions)
    probes = [i for i in range(1, len(decisions)) if decisions[i] and not decisions[i - 1]]
    pauses = [b - a for a, b in itertools.pairwise(probes)]
    assert pauses == sorted(pauses)


def test_the_gate_opens_again_when_the_text_changes():
    gate = Gate()
    play(gate, 300, plain=1.0, guessed=1.3, accepted=0)
    assert all(play(gate, 400, plain=1.0, guessed=1.3, accepted=2)[-50:])


def test_batch_sizes_are_judged_apart():
    gate = Gate()
    play(gate, 100, plain=1.0, guessed=9.0, accepted=0, batch=32)
    assert play(gate, 50, plain=1.0, guessed=1.1, accepted=2)[-1]


def test_guesses_save_steps_on_repeating_text_and_change_nothing(seed):
    network = FakeNetwork(seed)
    texts, steps = [], []
    for speculation in ("off", "ngram"):
        network.logits_SV[:] = -1.0
        network.logits_SV[:, 5] = 1.0  # a model that says the same thing for ever
        runner = Runner(fake_forward(network, 64, 4), max_batch=4, chunk=64, speculation=speculation)
        s = Sequence([1, 2, 3], Sampling(temperature=0.0, max_tokens=100), max_length=103)
        runner.scheduler.add(s)
        if runner.lookup:
            runner.gate.open = lambda batch: True
        while not runner.scheduler.idle:
            runner.step()
        texts.append(s.token_ids)
        steps.append(runner.steps)
    assert texts[0] == texts[1]
    assert steps[1] < 0.6 * steps[0]
    assert runner.gate.accepted > 30


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_mtp_guesses_are_verified_and_right_when_the_module_is(seed, temperature):
    network = FakeNetwork(seed, mtp=True)
    rng = random.Random(seed)
    runner = Runner(fake_forward(network, 64, 4), max_batch=4, chunk=5, speculation="auto")
    runner.gate.open = lambda batch: True
    sampling = Sampling(temperature=temperature, max_tokens=40, seed=seed)
    sequences = [Sequence([rng.randrange(VOCAB) for _ in range(n)], sampling, max_length=n + 40) for n in (3, 9, 14)]
    for s in sequences:
        runner.scheduler.add(s)
    while not runner.scheduler.idle:
        runner.step()
    for s in sequences:
        assert s.token_ids == network.expected(s.token_ids[: s.num_prompt], sampling, 0, seed, s.max_length).token_ids
    assert runner.gate.drafted > 30
    if temperature == 0:
        assert runner.gate.accepted == runner.gate.drafted
    else:
        assert 0 < runner.gate.accepted < runner.gate.drafted


def test_a_deepseek_model_with_mtp_says_the_same_with_and_without_guesses(seed):
    settings = V3 | {"model_type": "deepseek_v3", "num_nextn_predict_layers": 1}
    settings.pop("num_mtp_layers")
    network = build(ModelConfig.from_hf(settings)).eval()
    randomise(network, seed)
    spec = network.config.cache
    texts = []
    for speculation in ("off", "mtp"):
        cache = PagedCache(
            layers=spec.layers,
            kv_heads=spec.kv_heads,
            key_width=spec.key_width,
            value_width=spec.value_width,
            value_in_key=spec.value_in_key,
            num_blocks=32,
            block_size=4,
        )
        runner = Runner(TorchForward(network, cache), max_batch=4, chunk=16, speculation=speculation)
        runner.gate.open = lambda batch, on=speculation == "mtp": on
        sequences = [Sequence([7, 8, 9, i], Sampling(temperature=0.0, max_tokens=20), max_length=24) for i in range(3)]
        for s in sequences:
            runner.scheduler.add(s)
        with torch.inference_mode():
            while not runner.scheduler.idle:
                runner.step()
        texts.append([s.token_ids for s in sequences])
    assert texts[0] == texts[1]
    assert runner.gate.drafted > 0
