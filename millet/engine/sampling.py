"""How the next token is chosen: the parameters of one request, checked when they are made."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from millet.errors import BadRequest


@dataclass(frozen=True, slots=True)
class Sampling:
    """Sampling parameters of one request. Order of effect: penalties, bias, temperature, top-k, top-p, min-p.

    `seed` makes the request reproducible whatever else is in the batch; None draws a fresh one. `stop` are strings,
    `stop_token_ids` ends beside the model's own; the ending token or string is part of `token_ids`, so that a caller
    sees why it ended. Log-probabilities are the model's own, before penalties, temperature and truncation;
    `top_logprobs` asks for those of so many of the likeliest tokens beside each token's own.
    """

    temperature: float = 1.0
    top_k: int = 0  # 0: off
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0  # CTRL: logits of seen tokens divided (positive) or multiplied (negative)
    presence_penalty: float = 0.0  # OpenAI: subtracted once from every token generated so far
    frequency_penalty: float = 0.0  # OpenAI: subtracted once per occurrence
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    seed: int | None = None
    n: int = 1
    max_tokens: int = 512
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    logprobs: bool = False
    top_logprobs: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.stop, str):
            object.__setattr__(self, "stop", (self.stop,))
        object.__setattr__(self, "stop", tuple(self.stop or ()))
        object.__setattr__(self, "stop_token_ids", tuple(self.stop_token_ids))
        _number("temperature", self.temperature, 0.0, 100.0, "0 is greedy, 0.6 suits reasoning")
        _number("top_p", self.top_p, 0.0, 1.0, "1 turns it off", open_low=True)
        _number("min_p", self.min_p, 0.0, 1.0, "0 turns it off")
        _number("repetition_penalty", self.repetition_penalty, 0.01, 100.0, "1 turns it off")
        _number("presence_penalty", self.presence_penalty, -100.0, 100.0, "0 turns it off")
        _number("frequency_penalty", self.frequency_penalty, -100.0, 100.0, "0 turns it off")
        _integer("top_k", self.top_k, 0, None, "0 turns it off")
        _integer("n", self.n, 1, 1024, "the number of samples")
        _integer("max_tokens", self.max_tokens, 1, None, "the most tokens to generate")
        _integer("top_logprobs", self.top_logprobs, 0, 20, "the likeliest tokens to tell of")
        if not isinstance(self.logprobs, bool):
            raise BadRequest(f"logprobs is {self.logprobs!r}; it must be true or false")
        if self.top_logprobs and not self.logprobs:
            raise BadRequest(
                f"top_logprobs is {self.top_logprobs} without logprobs; set logprobs too, or leave both out"
            )
        if self.seed is not None:
            _integer("seed", self.seed, -(2**63), 2**64 - 1, "any 64-bit integer, or none")
        if not all(isinstance(s, str) and s for s in self.stop):
            raise BadRequest(
                "stop must be strings of at least one character; leave it out to stop at the model's own end"
            )
        for token, bias in self.logit_bias.items():
            _integer("logit_bias key", token, 0, None, "a token id")
            _number("logit_bias", bias, -100.0, 100.0, "-100 bans a token, 100 all but forces it")


def _number(name: str, value: float, low: float, high: float, hint: str, open_low: bool = False) -> None:
    ok = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if not ok or not (low < value if open_low else low <= value) or value > high:
        bracket = "above" if open_low else "at least"
        raise BadRequest(f"{name} is {value!r}; it must be {bracket} {low:g} and at most {high:g} ({hint})")


def _integer(name: str, value: int, low: int, high: int | None, hint: str) -> None:
    ok = isinstance(value, int) and not isinstance(value, bool)
    if not ok or value < low or (high is not None and value > high):
        limit = f" and at most {high}" if high is not None else ""
        raise BadRequest(f"{name} is {value!r}; it must be a whole number of at least {low}{limit} ({hint})")
