import math
from collections import Counter

import pytest
import torch

from millet.engine.sampler import CANDIDATES, sample, score, uniform
from millet.engine.sampling import Sampling
from millet.engine.sequence import Sequence

V = 1000

pytestmark = pytest.mark.usefixtures("way")


def sequence(prompt=(1, 2, 3), index=0, **kwargs) -> Sequence:
    return Sequence(list(prompt), Sampling(**kwargs), index=index, max_length=10_000)


def draws(logits_V: torch.Tensor, count: int, **kwargs) -> Counter:
    """Tokens drawn at `count` positions of one request, all from the same distribution."""
    result = Counter()
    for start in range(0, count, 500):
        batch = []
        for position in range(start, start + 500):
            s = sequence(**kwargs)
            s.index = position
            batch.append(s)
        result.update(sample(logits_V.expand(len(batch), -1), batch).token_ids)
    return result


def truncated_reference(logits_V, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0):
    """The distribution, token by token in plain Python."""
    p = (logits_V.double() / temperature).softmax(-1).tolist()
    order = sorted(range(len(p)), key=lambda i: -p[i])
    if top_k:
        order = order[:top_k]
    total = sum(p[i] for i in order)
    kept, mass = [], 0.0
    for i in order:
        if mass < top_p * total:
            kept.append(i)
        mass += p[i]
    kept = [i for i in kept if p[i] >= min_p * p[order[0]]]
    total = sum(p[i] for i in kept)
    return {i: p[i] / total for i in kept}


@pytest.mark.parametrize(
    "parameters",
    [
        {"temperature": 1.0},
        {"temperature": 0.7},
        {"top_k": 5},
        {"top_p": 0.6},
        {"min_p": 0.1},
        {"top_k": 20, "top_p": 0.7, "min_p": 0.02, "temperature": 1.3},
        {"top_k": CANDIDATES + 100},
        {"top_k": CANDIDATES + 100, "top_p": 0.5, "temperature": 2.0},
        {"top_p": 0.99},
        {"min_p": 1e-7},
    ],
)
def test_draws_follow_the_truncated_distribution(seed, parameters):
    torch.manual_seed(seed)
    logits_V = torch.randn(V) * 2
    expected = truncated_reference(logits_V, **parameters)
    count = 20_000
    found = draws(logits_V, count, seed=seed, **({"temperature": 1.0} | parameters))
    assert set(found) <= set(expected)
    for token, p in expected.items():
        assert abs(found[token] - count * p) < 6 * math.sqrt(count * p * (1 - p)) + 3


def test_temperature_zero_is_the_best_token(seed):
    torch.manual_seed(seed)
    logits_NV = torch.randn(7, V)
    result = sample(logits_NV, [sequence(temperature=0.0) for _ in range(7)])
    assert result.token_ids == logits_NV.argmax(-1).tolist()
    assert result.logprobs is None


def test_a_row_does_not_depend_on_its_neighbours(seed):
    torch.manual_seed(seed)
    logits_NV = torch.randn(5, V) * 3
    kinds = [
        {"temperature": 0.0},
        {"temperature": 0.8, "seed": seed},
        {"temperature": 1.0, "top_p": 0.9, "seed": seed},
        {"temperature": 1.0, "top_k": 3, "seed": seed},
        {"temperature": 1.5, "top_p": 0.9999, "repetition_penalty": 1.3, "seed": seed},
    ]
    together = sample(logits_NV, [sequence(**k) for k in kinds]).token_ids
    alone = [sample(logits_NV[i : i + 1], [sequence(**k)]).token_ids[0] for i, k in enumerate(kinds)]
    assert together == alone


def test_penalties_and_bias():
    logits = torch.tensor([[2.0, 1.9, -1.0, 0.0]])
    s = sequence(prompt=[0], temperature=0.0, repetition_penalty=2.0)
    assert sample(logits, [s]).token_ids == [1]  # 2.0 / 2 < 1.9: a prompt token counts
    s = sequence(prompt=[0], temperature=0.0, presence_penalty=1.0)
    assert sample(logits, [s]).token_ids == [0]  # a prompt token does not count here
    s.token_ids.append(0)
    assert sample(logits, [s]).token_ids == [1]
    s = sequence(prompt=[2], temperature=0.0, frequency_penalty=0.06)
    s.token_ids += [0, 0]
    assert sample(logits, [s]).token_ids == [1]  # twice 0.06
    s = sequence(temperature=0.0, logit_bias={3: 5.0})
    assert sample(logits, [s]).token_ids == [3]
    s = sequence(temperature=1.0, logit_bias={3: -100.0, 0: -100.0, 1: -100.0})
    assert sample(logits, [s]).token_ids == [2]


def test_a_hook_mask_is_never_escaped(seed):
    torch.manual_seed(seed)
    allow = torch.zeros(V, dtype=torch.bool)
    allow[[3, 5]] = True
    for position in range(200):
        s = sequence(index=position, temperature=2.0, top_p=0.9, seed=seed)
        s.allow = allow
        assert sample(torch.randn(1, V) * 4, [s]).token_ids[0] in (3, 5)


def test_logprobs_are_the_models_own(seed):
    torch.manual_seed(seed)
    logits_NV = torch.randn(3, V)
    rows = [
        sequence(temperature=0.3, top_k=2, logprobs=True, seed=seed, logit_bias={9: 50.0}),
        sequence(temperature=0.0, logprobs=True),
        sequence(temperature=0.0),
    ]
    result = sample(logits_NV, rows)
    assert result.token_ids[0] == 9
    expected = logits_NV.log_softmax(-1)[torch.arange(3), torch.tensor(result.token_ids)]
    assert result.logprobs is not None
    assert result.logprobs[:2] == pytest.approx(expected[:2].tolist())  # nobody asked for the third
    assert score(logits_NV, [5, 9, 0]) == pytest.approx(logits_NV.log_softmax(-1)[torch.arange(3), [5, 9, 0]].tolist())


def test_uniform_is_uniform_and_fixed():
    values = [uniform(s, i, p) for s in range(20) for i in range(20) for p in range(50)]
    assert all(0 <= v < 1 for v in values)
    assert len(set(values)) == len(values)
    buckets = Counter(int(v * 20) for v in values)
    assert all(abs(buckets[b] - 1000) < 6 * math.sqrt(950) for b in range(20))
    assert uniform(0, 0, 0) == uniform(2**64, 0, 0)
    assert uniform(-1, 0, 0) == uniform(2**64 - 1, 0, 0)
