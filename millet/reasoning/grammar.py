"""Content that must have a form: a JSON schema, or the call of a tool. llguidance says which tokens may come next."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any

import llguidance
import numpy as np
import torch
from torch import Tensor

from millet.errors import BadRequest
from millet.models.tokenizer import Tokenizer

LONGEST = 64 * 1024  # characters of a schema
DEEPEST = 64  # levels of nesting in it
# One form for all that may be written in several: a model that may choose its blank space can go on with it for ever.
FORM = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
# Fuel, states and sizes beyond which a schema is refused, or a reply ended. No text of either goes into errors.
LIMITS = llguidance.LLParserLimits(max_grammar_size=200_000, max_lexer_states=50_000, verbose_errors=False)


class Grammars:
    """Of one model. vocab_size: rows of its embedding, which may be more than the tokenizer has tokens."""

    def __init__(self, tokenizer: Tokenizer, end_ids: Iterable[int], vocab_size: int) -> None:
        self._tokenizer = tokenizer
        self._end_ids = sorted(end_ids)
        self._vocab_size = vocab_size

    def of_schema(self, schema: Any) -> Grammar:
        """JSON that a schema allows. Raises BadRequest for one that is impossible, unsupported or too large."""
        return self._compiled("%json " + _written(schema, "schema"), "the schema")

    def of_calls(self, patterns: Mapping[str, tuple[str, str]], functions: Mapping[str, Any]) -> Grammar:
        """One call of one of some functions. patterns: by name, what stands in Lark before and after its arguments."""
        calls = [
            f"({before} %json {_written(_arguments(functions[name]), f'parameters of {name!r}')} {after})"
            for name, (before, after) in patterns.items()
        ]
        return self._compiled(" | ".join(calls), "the parameters of the tools")

    def _compiled(self, rule: str, what: str) -> Grammar:
        matcher = llguidance.LLMatcher(
            self._llguidance, llguidance.LLMatcher.grammar_from_lark(f"start: {rule}"), log_level=0, limits=LIMITS
        )
        grammar = Grammar(matcher, self._end_ids, self._vocab_size)
        if grammar.mask() is None:
            reason = " ".join(matcher.get_error().split()) or "nothing can satisfy it"
            raise BadRequest(f"{what} cannot be used: {reason[:300]}")
        return grammar

    @cached_property
    def _llguidance(self) -> llguidance.LLTokenizer:
        state = json.loads(self._tokenizer.to_json())
        for token in state["added_tokens"]:  # a mark is no part of a text, even where its letters would be
            token["special"] = True
        return llguidance.LLTokenizer(json.dumps(state), n_vocab=self._vocab_size, eos_token=self._end_ids)


class Grammar:
    """How far one text has come in its form."""

    def __init__(self, matcher: llguidance.LLMatcher, end_ids: list[int], vocab_size: int) -> None:
        self._matcher = matcher
        self._end_ids = end_ids
        self._vocab_size = vocab_size

    def copy(self) -> Grammar:
        """For another text."""
        return Grammar(self._matcher.deep_copy(), self._end_ids, self._vocab_size)

    def push(self, token_id: int) -> bool:
        """Take one more token. False where it does not fit, and from then on."""
        return self._matcher.consume_token(token_id)

    @property
    def ended(self) -> bool:
        """The text is whole, and nothing can follow."""
        return self._matcher.is_stopped() and not self._matcher.is_error()

    def mask(self) -> Tensor | None:
        """Bool [V] of the tokens that may follow, the ends among them where the text may end. None where none may, as
        after a token that did not fit, or where the text has become too complex."""
        if self._matcher.is_error() or self._matcher.is_stopped():
            return None
        packed = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        if self._matcher.is_error():
            return None
        allowed_V = torch.zeros(self._vocab_size, dtype=torch.bool)
        bits = np.unpackbits(packed, bitorder="little")[: self._vocab_size]
        allowed_V[: len(bits)] = torch.from_numpy(bits).bool()
        allowed_V[self._end_ids] = self._matcher.is_accepting()
        return allowed_V if allowed_V.any() else None


def _arguments(parameters: Any) -> dict[str, Any]:
    """Arguments are an object, and where a function's parameters are listed, they are all there are."""
    closed = {"additionalProperties": False} if "properties" in parameters else {}
    return {"type": "object", **closed, **parameters}


def _written(schema: Any, what: str) -> str:
    if not isinstance(schema, Mapping):
        raise BadRequest(f"the {what} must be a JSON schema, as an object")
    if _depth(schema) > DEEPEST:
        raise BadRequest(f"the {what} nests deeper than {DEEPEST} levels; give a flatter one")
    try:
        text = json.dumps({**schema, "x-guidance": FORM})
    except (TypeError, ValueError) as error:
        raise BadRequest(f"the {what} is no JSON: {' '.join(str(error).split())}") from error
    if len(text) > LONGEST:
        raise BadRequest(f"the {what} is {len(text)} characters long, and the most is {LONGEST}; give a smaller one")
    return text


def _depth(value: Any) -> int:
    """Levels of nesting, counted no further than what is too deep."""
    level, depth = [value], 0
    while level and depth <= DEEPEST:
        depth += 1
        parts = [v.values() if isinstance(v, Mapping) else v for v in level if isinstance(v, (Mapping, list, tuple))]
        level = [item for part in parts for item in part]
    return depth
