"""From logits to tokens: one vectorised pass over the rows of a step, each row with its own parameters.

A token is drawn by inverting the cumulative distribution at a number that depends only on (seed, sample, position).
So a request's text depends on its seed and its logits, never on its neighbours, and a drafted token is accepted exactly
when it is the one that would have been drawn anyway: speculation leaves the text itself unchanged.

Shape legend: N rows, V vocabulary, C candidates (the most likely tokens, sorted).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from millet.engine.sequence import Sequence
from millet.kernels.draw import Draw, draw, log_probabilities
from millet.kernels.native.library import library

CANDIDATES = 256
"""Truncated sampling looks at this many of the most likely tokens first; rows that need more are sorted whole."""

COLDEST = 1e-5
"""Below this temperature sampling is greedy, as it would be anyway but for overflow."""


@dataclass(frozen=True, slots=True)
class Sampled:
    token_ids: list[int]
    logprobs: list[float] | None  # of the model's own distribution, where any row asked for them


def sample(logits_NV: Tensor, sequences: list[Sequence], rows: list[int] | None = None) -> Sampled:
    """Draw the next token of each sequence from its row of fp32 logits. rows: whose these are; by default in order."""
    native, adjusts = _native(logits_NV), any(_adjusts(s) for s in sequences)
    if native and not adjusts:  # without a copy of rows that several are drawn from
        return Sampled(*draw(logits_NV, logits_NV, [_request(s) for s in sequences], rows))
    choice_NV = logits_NV = logits_NV if rows is None else logits_NV[rows]
    if adjusts:
        choice_NV = logits_NV.clone()
        for row_V, sequence in zip(choice_NV, sequences, strict=True):
            _adjust(row_V, sequence)
    if native:
        return Sampled(*draw(logits_NV, choice_NV, [_request(s) for s in sequences]))
    return _sample(logits_NV, choice_NV, sequences)


def _native(logits_NV: Tensor) -> bool:
    return logits_NV.device.type == "cpu" and logits_NV.dtype == torch.float32 and library() is not None


def _request(sequence: Sequence) -> Draw:
    s = sequence.sampling
    u = uniform(sequence.seed, sequence.index, sequence.num_generated) if s.temperature >= COLDEST else 0.0
    return Draw(s.temperature, s.top_k, s.top_p, s.min_p, u, s.logprobs)


def _sample(logits_NV: Tensor, choice_NV: Tensor, sequences: list[Sequence]) -> Sampled:
    """The rule in PyTorch: on other devices, without the native kernels, and their reference."""
    tokens_N = choice_NV.argmax(dim=-1)
    drawn = [i for i, s in enumerate(sequences) if s.sampling.temperature >= COLDEST]
    if drawn:
        rows = slice(None) if len(drawn) == len(sequences) else drawn
        tokens_N[rows] = _draw(choice_NV[rows], [sequences[i] for i in drawn])
    logprobs = None
    if any(s.sampling.logprobs for s in sequences):
        logprobs = score(logits_NV, tokens_N.tolist())
    return Sampled(tokens_N.tolist(), logprobs)


def score(logits_NV: Tensor, token_ids: list[int]) -> list[float]:
    """Log-probability of each token under its row, before penalties, temperature and truncation."""
    if _native(logits_NV):
        return log_probabilities(logits_NV, token_ids)
    tokens_N = torch.tensor(token_ids, device=logits_NV.device)
    return logits_NV.log_softmax(dim=-1).gather(1, tokens_N[:, None]).squeeze(1).tolist()


def likeliest(logits_V: Tensor, count: int, token_id: int, logprob: float) -> tuple[tuple[int, float], ...]:
    """(token, log-probability) of the likeliest tokens of a row, of which `token_id` is known to have `logprob`.

    That one gives the normaliser, so that it is the same number where it is among them.
    """
    best = logits_V.topk(min(count, len(logits_V)))
    normaliser = float(logits_V[token_id]) - logprob
    pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    return tuple((token, logprob if token == token_id else min(0.0, logit - normaliser)) for token, logit in pairs)


def uniform(seed: int, index: int, position: int) -> float:
    """The number in [0, 1) that decides one token: two rounds of splitmix64's mixer over (seed, sample, position)."""
    mixed = _mix(_mix(seed & _MASK ^ 0x9E3779B97F4A7C15 * (index + 1)) + 0x9E3779B97F4A7C15 * (position + 1))
    return (mixed >> 11) * 2.0**-53


_MASK = 2**64 - 1


def _mix(x: int) -> int:
    x &= _MASK
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 & _MASK
    x = (x ^ x >> 27) * 0x94D049BB133111EB & _MASK
    return x ^ x >> 31


def _adjusts(sequence: Sequence) -> bool:
    s = sequence.sampling
    penalised = s.repetition_penalty != 1.0 or s.presence_penalty or s.frequency_penalty
    return bool(penalised or s.logit_bias) or sequence.allow is not None


def _adjust(row_V: Tensor, sequence: Sequence) -> None:
    """Penalties, bias and the hook's mask, in place on one row."""
    s = sequence.sampling
    if s.repetition_penalty != 1.0:
        seen = torch.tensor(sequence.token_ids, device=row_V.device).unique()
        logits = row_V[seen]
        row_V[seen] = torch.where(logits > 0, logits / s.repetition_penalty, logits * s.repetition_penalty)
    if (s.presence_penalty or s.frequency_penalty) and sequence.num_generated:
        seen, counts = torch.tensor(sequence.generated, device=row_V.device).unique(return_counts=True)
        row_V[seen] -= s.presence_penalty + s.frequency_penalty * counts
    if s.logit_bias:
        ids = torch.tensor(list(s.logit_bias), device=row_V.device)
        row_V[ids] += torch.tensor(list(s.logit_bias.values()), dtype=row_V.dtype, device=row_V.device)
    if sequence.allow is not None:
        row_V.masked_fill_(~sequence.allow.to(row_V.device), -torch.inf)


def _draw(logits_NV: Tensor, sequences: list[Sequence]) -> Tensor:
    """Tokens [N] at each sequence's own temperature and truncation."""
    device = logits_NV.device
    params = [s.sampling for s in sequences]
    temperature_N1 = torch.tensor([p.temperature for p in params], device=device)[:, None]
    u_N1 = torch.tensor(
        [uniform(s.seed, s.index, s.num_generated) for s in sequences], dtype=torch.float64, device=device
    )[:, None]
    scaled_NV = logits_NV / temperature_N1
    truncated = [i for i, p in enumerate(params) if p.top_k > 0 or p.top_p < 1.0 or p.min_p > 0.0]
    whole = [i for i in range(len(params)) if i not in set(truncated)]
    tokens_N = torch.empty(len(params), dtype=torch.int64, device=device)
    if whole:
        cumulative_NV = scaled_NV[whole].softmax(dim=-1).double().cumsum(dim=-1)
        tokens_N[whole] = _invert(cumulative_NV, u_N1[whole])
    for count in (CANDIDATES, logits_NV.shape[1]):
        if truncated:
            rows = torch.tensor(truncated, device=device)
            tokens, certain = _draw_truncated(scaled_NV[rows], u_N1[rows], [params[i] for i in truncated], count)
            tokens_N[rows[certain]] = tokens[certain]
            truncated = rows[~certain].tolist()
    return tokens_N


def _draw_truncated(scaled_NV: Tensor, u_N1: Tensor, params: list, count: int) -> tuple[Tensor, Tensor]:
    """Top-k, then top-p of what is left, then min-p, looking at the `count` best tokens.

    Returns tokens [N] and whether `count` candidates were enough to know where each row is cut.
    """
    device = scaled_NV.device
    count = min(count, scaled_NV.shape[1])
    best_NC, ids_NC = scaled_NV.topk(count, dim=-1)
    p_NC = (best_NC - scaled_NV.logsumexp(dim=-1, keepdim=True)).exp().double()
    top_k_N1 = torch.tensor([p.top_k or scaled_NV.shape[1] for p in params], device=device)[:, None]
    top_p_N1 = torch.tensor([p.top_p for p in params], dtype=torch.float64, device=device)[:, None]
    min_p_N1 = torch.tensor([p.min_p for p in params], dtype=torch.float64, device=device)[:, None]
    kept_NC = torch.arange(count, device=device) < top_k_N1
    cumulative_NC = (p_NC * kept_NC).cumsum(dim=-1)
    mass_N1 = torch.where(top_k_N1 <= count, cumulative_NC[:, -1:], 1.0)
    kept_NC &= (cumulative_NC - p_NC < top_p_N1 * mass_N1) | (top_p_N1 == 1.0)
    kept_NC &= p_NC >= min_p_N1 * p_NC[:, :1]
    certain_N = ~kept_NC[:, -1] | (top_k_N1[:, 0] == count)
    # Top-p is a share of what top-k leaves, whose mass is not known where that reaches beyond the candidates.
    certain_N &= ((top_k_N1 <= count) | (top_k_N1 >= scaled_NV.shape[1]) | (top_p_N1 == 1.0))[:, 0]
    certain_N |= count == scaled_NV.shape[1]
    cumulative_NC = (p_NC * kept_NC).cumsum(dim=-1)
    return ids_NC.gather(1, _invert(cumulative_NC, u_N1)[:, None]).squeeze(1), certain_N


def _invert(cumulative_NC: Tensor, u_N1: Tensor) -> Tensor:
    """First index whose cumulative mass exceeds u times the total."""
    total_N1 = cumulative_NC[:, -1:].contiguous()
    index_N1 = torch.searchsorted(cumulative_NC, u_N1 * total_N1, right=True)
    # Rounding may put u * total at the very end: fall back to the first index that reaches the total.
    last_N1 = torch.searchsorted(cumulative_NC, total_N1)
    return torch.minimum(index_N1, last_N1).squeeze(1)
