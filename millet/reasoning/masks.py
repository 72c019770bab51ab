"""Which tokens may come next, where a reply must not do as it likes: bool tensors [V], made when first needed."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property

import torch
from torch import Tensor

from millet.models.tokenizer import Tokenizer
from millet.reasoning.format import ThinkFormat


class TokenMasks:
    """vocab_size: rows of the model's embedding; those beyond the tokenizer stand for no text. openers: tokens that
    begin the call of a tool, where an answer may be one."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        think: ThinkFormat,
        end_ids: Iterable[int],
        vocab_size: int,
        openers: Iterable[int] = (),
    ) -> None:
        self._openers = frozenset(openers)
        self._tokenizer = tokenizer
        self._think = think
        self._ends = tuple(end_ids)
        self._vocab_size = vocab_size

    @cached_property
    def no_thought(self) -> Tensor | None:
        """All but the token that opens a thought; None where a thought is not opened by one token."""
        return None if self._think.open_id is None else self._all_but([self._think.open_id])

    @cached_property
    def no_end(self) -> Tensor:
        """What leads to an answer: all but the ends, control tokens and the marks of a thought."""
        marks = [i for i in (self._think.open_id, self._think.close_id) if i is not None]
        return self._all_but({*self._ends, *self._tokenizer.special_ids, *marks} - self._openers)

    @cached_property
    def blank(self) -> Tensor:
        """Nothing but blank space."""
        known = range(min(self._vocab_size, self._tokenizer.vocab_size))
        blank_V = torch.zeros(self._vocab_size, dtype=torch.bool)
        blank_V[[i for i in known if self._tokenizer.token_bytes(i).isspace()]] = True
        return blank_V

    @cached_property
    def visible(self) -> Tensor:
        """Of `no_end`, those with more than blank space in them."""
        known = min(self._vocab_size, self._tokenizer.vocab_size)
        shows = [bool(self._tokenizer.token_bytes(i).decode(errors="replace").strip()) for i in range(known)]
        shows_V = torch.zeros(self._vocab_size, dtype=torch.bool)
        shows_V[:known] = torch.tensor(shows)
        shows_V[list(self._openers)] = True
        return shows_V & self.no_end

    def _all_but(self, banned: Iterable[int]) -> Tensor:
        allowed_V = torch.ones(self._vocab_size, dtype=torch.bool)
        allowed_V[[token_id for token_id in banned if token_id < self._vocab_size]] = False
        return allowed_V
