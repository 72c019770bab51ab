"""Drawing tokens on the native kernels: the rule in plain Python decides, and the sampler's PyTorch form agrees."""

import itertools
import math
import random
from bisect import bisect_right
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from millet.engine import sampler
from millet.engine.sampler import _request, _sample
from millet.engine.sampling import Sampling
from millet.engine.sequence import Sequence
from millet.kernels.draw import Draw, draw, log_probabilities
from tests.kernels.steps import threads

pytestmark = pytest.mark.usefixtures("with_native")

PLAIN = Draw(temperature=1.0, top_k=0, top_p=1.0, min_p=0.0, uniform=0.5, logprob=False)
GRID = [
    dict(zip(("temperature", "top_k", "top_p", "min_p"), values, strict=True))
    for values in itertools.product((0.3, 1.0, 1.7), (0, 1, 7, 300), (1.0, 0.9, 0.3, 0.9999), (0.0, 0.05, 1e-7))
]


def kept_tokens(logits_V: Tensor, how: Draw) -> tuple[list[int], list[float], float]:
    """What top-k, then top-p, then min-p leave: tokens and their weights, in the order in which they are summed; and
    the smallest relative distance of any of them from being cut, or not cut."""
    weights = ((logits_V.double() - logits_V.double().max()) / how.temperature).exp().tolist()
    if not (how.top_k or how.top_p < 1.0 or how.min_p):
        return list(range(len(weights))), weights, 1.0
    order = sorted(range(len(weights)), key=lambda i: (-weights[i], i))
    margin = 1.0
    if how.top_k and how.top_k < len(order):
        last, first_out = weights[order[how.top_k - 1]], weights[order[how.top_k]]
        margin = 1 - first_out / last if 0 < first_out < last else 1.0
        order = order[: how.top_k]
    total = sum(weights[i] for i in order)
    kept, mass = [], 0.0
    for i in order:
        margin = min(margin, abs(mass / total - how.top_p))
        margin = min(margin, abs(weights[i] / how.min_p - 1)) if how.min_p else margin
        if (mass >= how.top_p * total and how.top_p < 1.0) or weights[i] < how.min_p:
            break
        kept.append(i)
        mass += weights[i]
    return kept, [weights[i] for i in kept], margin


def by_inversion(kept: list[int], weights: list[float], uniform: float) -> tuple[int, float]:
    """The token where the cumulative weight passes `uniform` of the whole, and how far that is from the next edge."""
    edges = [*itertools.accumulate(weights)]
    target = uniform * edges[-1]
    at = min(bisect_right(edges, target), len(edges) - 1)
    return kept[at], min(abs(edge - target) for edge in (0.0 if target else -1.0, *edges)) / edges[-1]


def row_of(kind: str, size: int) -> Tensor:
    match kind:
        case "usual":
            return torch.randn(size) * 3
        case "flat":
            return torch.randn(size) * 0.01 + 5
        case "peaked":
            return torch.randn(size) * 30
        case "masked":
            return torch.where(torch.rand(size) < 0.7, -torch.inf, torch.randn(size) * 2).index_fill(
                0, torch.randint(size, (3,)), 1.5
            )
        case _:
            raise AssertionError(kind)


@pytest.mark.parametrize("kind", ["usual", "flat", "peaked", "masked"])
@pytest.mark.parametrize("size", [1, 2, 61, 1000, 5003])
def test_every_combination_follows_the_rule(seed: int, size: int, kind: str) -> None:
    torch.manual_seed(seed)
    rng = random.Random(seed)
    compared = 0
    for settings in rng.sample(GRID, 36 if size > 2000 else len(GRID)):
        row_V = row_of(kind, size)
        hows = [replace(PLAIN, uniform=u, **settings) for u in (0.0, *(rng.random() for _ in range(6)), 1 - 2**-53)]
        tokens, logprobs = draw(row_V.expand(8, -1), row_V.expand(8, -1), hows)
        assert logprobs is None
        kept, weights, margin = kept_tokens(row_V, hows[0])
        for how, token in zip(hows, tokens, strict=True):
            assert row_V[token] > -torch.inf
            if margin < 1e-5:  # rounding decides what is cut
                continue
            expected, distance = by_inversion(kept, weights, how.uniform)
            assert weights[kept.index(token)] > 0 or weights[kept.index(token)] == max(weights)
            if distance > 1e-5:
                assert token == expected, how
                compared += 1
    assert compared > 100


@pytest.mark.parametrize("kind", ["usual", "flat", "peaked", "masked"])
def test_the_pytorch_form_draws_the_same(seed: int, kind: str) -> None:
    """Through `Sampling`, with seeds: the same token. Or one as likely in fp32, since PyTorch gives equals no order; or
    one beside it where rounding decides."""
    torch.manual_seed(seed)
    for settings in random.Random(seed).sample(GRID, 60):
        logits_NV = torch.stack([row_of(kind, 1000) for _ in range(5)])
        sequences = [Sequence([1], Sampling(seed=seed + i, **settings), max_length=9) for i in range(5)]
        native = sampler.sample(logits_NV, sequences).token_ids
        torch_form = _sample(logits_NV, logits_NV, sequences).token_ids
        for row_V, sequence, ours, theirs in zip(logits_NV, sequences, native, torch_form, strict=True):
            if (row_V[ours] - row_V[theirs]).abs() > 1e-6:
                how = _request(sequence)
                kept, weights, margin = kept_tokens(row_V, how)
                assert min(margin, by_inversion(kept, weights, how.uniform)[1]) < 1e-5, how


def test_greedy_takes_the_first_of_the_largest(seed: int) -> None:
    torch.manual_seed(seed)
    for size in (1, 15, 16, 17, 1000, 3001):
        logits_NV = torch.randint(4, (40, size)).float()  # ties everywhere
        tokens, logprobs = draw(logits_NV, logits_NV, [replace(PLAIN, temperature=0.0, logprob=True)] * 40)
        assert tokens == [row.index(max(row)) for row in logits_NV.tolist()]
        expected = logits_NV.double().log_softmax(-1)[range(40), tokens].tolist()
        assert logprobs == pytest.approx(expected, abs=2e-6, rel=1e-6)


def test_ties_are_kept_in_order_of_their_ids() -> None:
    """Of equals, top-k keeps the first; and they are tried in this order."""
    logits_V = torch.zeros(50)
    for k in (1, 3, 49):
        hows = [replace(PLAIN, top_k=k, uniform=(i + 0.5) / k) for i in range(k)]
        assert draw(logits_V.expand(k, -1), logits_V.expand(k, -1), hows)[0] == list(range(k))


@pytest.mark.parametrize("temperature", [1e-30, 9e-6, 2e-5, 1e-3])
def test_very_cold_is_greedy(seed: int, temperature: float) -> None:
    torch.manual_seed(seed)
    logits_NV = (torch.randn(20, 300) * 10).round(decimals=1)
    logits_NV += torch.linspace(0, 0.05, 300)  # no two alike
    hows = [replace(PLAIN, temperature=temperature, uniform=torch.rand(1).item(), top_p=p) for p in (1.0, 0.5)] * 10
    found = draw(logits_NV, logits_NV, hows)[0]
    gaps = logits_NV.topk(2).values.diff()[:, 0].abs()
    expected = logits_NV.argmax(-1).tolist()
    assert all(a == b for a, b, gap in zip(found, expected, gaps, strict=True) if gap > 60 * temperature)


def test_very_hot_is_uniform(seed: int) -> None:
    logits_V = torch.randn(64, generator=torch.Generator().manual_seed(seed))
    hows = [replace(PLAIN, temperature=1e6, uniform=(i + 0.5) / 64) for i in range(64)]
    assert draw(logits_V.expand(64, -1), logits_V.expand(64, -1), hows)[0] == list(range(64))


@pytest.mark.parametrize(
    "settings", [{}, {"top_k": 40}, {"top_p": 0.8}, {"min_p": 0.01}, {"top_k": 200, "top_p": 0.95}]
)
def test_many_draws_have_the_exact_probabilities(seed: int, settings: dict) -> None:
    """Numbers evenly spread over [0, 1) land on each token as often as its probability says, give or take its edges."""
    torch.manual_seed(seed)
    logits_V, count = torch.randn(700) * 2, 20_000
    offset = random.Random(seed).random()
    hows = [replace(PLAIN, temperature=0.9, uniform=(i + offset) / count, **settings) for i in range(count)]
    found = torch.zeros(700)
    for start in range(0, count, 2000):
        part = hows[start : start + 2000]
        tokens = draw(logits_V.expand(2000, -1), logits_V.expand(2000, -1), part)[0]
        found += torch.bincount(torch.tensor(tokens), minlength=700)
    kept, weights, _ = kept_tokens(logits_V, hows[0])
    expected = torch.zeros(700, dtype=torch.float64)
    expected[kept] = torch.tensor(weights, dtype=torch.float64) / math.fsum(weights) * count
    assert (found - expected).abs().max() <= 2 + 1e-5 * count


def test_what_is_chosen_from_may_differ_from_what_is_scored(seed: int) -> None:
    torch.manual_seed(seed)
    logits_NV = torch.randn(3, 100)
    choice_NV = torch.full((3, 100), -torch.inf)
    choice_NV[range(3), [5, 9, 99]] = 0.0
    tokens, logprobs = draw(logits_NV, choice_NV, [replace(PLAIN, logprob=True, top_p=0.9)] * 3)
    assert tokens == [5, 9, 99]
    assert logprobs == pytest.approx(logits_NV.double().log_softmax(-1)[range(3), tokens].tolist(), abs=1e-6)


@pytest.mark.parametrize("size", [1, 7, 1024, 1025, 49152])
def test_log_probabilities_are_those_of_softmax(seed: int, size: int) -> None:
    torch.manual_seed(seed)
    for scale in (0.01, 3.0, 50.0):
        logits_NV = torch.randn(6, size) * scale
        logits_NV[0, 0] = -torch.inf if size > 1 else 0.0
        tokens = torch.randint(size, (6,)).tolist()
        expected = logits_NV.double().log_softmax(-1)[range(6), tokens].tolist()
        assert log_probabilities(logits_NV, tokens) == pytest.approx(expected, abs=1e-6, rel=1e-6)


def test_rows_are_drawn_alike_in_any_company_and_on_any_number_of_threads(seed: int) -> None:
    torch.manual_seed(seed)
    rng = random.Random(seed)
    wide_NV = torch.randn(30, 3000) * 3
    logits_NV = wide_NV[:, 100:2937]  # rows that do not lie side by side
    hows = [replace(PLAIN, uniform=rng.random(), logprob=True, **rng.choice(GRID)) for _ in range(30)]
    alone = [draw(logits_NV[i : i + 1], logits_NV[i : i + 1], [how]) for i, how in enumerate(hows)]
    for count in (1, 2, 3):
        with threads(count):
            tokens, logprobs = draw(logits_NV, logits_NV, hows)
            scored = log_probabilities(logits_NV, tokens)
        assert tokens == [token for (token,), _ in alone]
        assert logprobs == [logprob[0] for _, logprob in alone if logprob]
        assert logprobs == scored, "a drawn token's log-probability is that of a given one, bit for bit"


def test_several_draws_of_one_row(seed: int) -> None:
    logits_NV = torch.randn(5, 97, generator=torch.Generator().manual_seed(seed))
    rng = random.Random(seed)
    of = [rng.randrange(5) for _ in range(30)]
    hows = [replace(PLAIN, uniform=rng.random(), logprob=True) for _ in of]
    assert draw(logits_NV, logits_NV, hows, of) == draw(logits_NV[of], logits_NV[of], hows)
