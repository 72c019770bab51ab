"""Drawing tokens from rows of logits on the native kernels; the rule is engine/sampler.py's, which is its reference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from millet.errors import OutOfMemory
from millet.kernels.native import abi
from millet.kernels.threads import native_threads

DRAWN = -1  # a token that is still to be drawn


@dataclass(frozen=True, slots=True)
class Draw:
    """How one row is drawn from; see `Sampling`. `uniform` in [0, 1) decides."""

    temperature: float
    top_k: int
    top_p: float
    min_p: float
    uniform: float
    logprob: bool


def draw(
    logits_NV: Tensor, choice_NV: Tensor, draws: Sequence[Draw], of: Sequence[int] | None = None
) -> tuple[list[int], list[float] | None]:
    """For each draw a token of a row of `choice_NV`, and (if any asks) its log-probability under `logits_NV`.

    of: the row of each, several may be of one; by default each of its own.
    """
    rows = _rows(logits_NV, choice_NV, range(len(draws)) if of is None else of)
    for row, how in zip(rows, draws, strict=True):
        row.temperature, row.top_k, row.top_p, row.min_p = how.temperature, how.top_k, how.top_p, how.min_p
        row.uniform, row.want_logprob, row.token = how.uniform, how.logprob, DRAWN
    _run(rows)
    tokens = [row.token for row in rows]
    return tokens, [row.logprob for row in rows] if any(how.logprob for how in draws) else None


def log_probabilities(logits_NV: Tensor, token_ids: Sequence[int]) -> list[float]:
    """Log-probability of a given token under each row."""
    rows = _rows(logits_NV, logits_NV, range(len(token_ids)))
    for row, token in zip(rows, token_ids, strict=True):
        row.token, row.want_logprob = token, True
    _run(rows)
    return [row.logprob for row in rows]


def _rows(logits_NV: Tensor, choice_NV: Tensor, of: Sequence[int]) -> Sequence[abi.Sample]:
    rows = (abi.Sample * len(of))()
    for row, i in zip(rows, of, strict=True):
        row.logits = logits_NV.data_ptr() + 4 * i * logits_NV.stride(0)
        row.choice = choice_NV.data_ptr() + 4 * i * choice_NV.stride(0)
        row.size = logits_NV.shape[1]
    return rows  # type: ignore[return-value]


def _run(rows: Sequence[abi.Sample]) -> None:
    if len(rows) and abi.functions().millet_sample(rows, len(rows), native_threads()):
        raise OutOfMemory("no memory is left to draw tokens; close other programs")
