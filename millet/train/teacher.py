"""A teacher in memory: a frozen model that says how likely each next token is.

Shape legend: T tokens of all sequences end to end, N rows with a target, D model width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from millet.errors import BadRequest
from millet.kernels.attention import PackedAttention
from millet.kernels.eager import Eager, EagerAttention, Native
from millet.models.model import Model
from millet.train.divergence import Rows


class Teacher:
    """Its weights stay in the form that they were loaded in, 4-bit ones too, and never learn."""

    def __init__(self, model: Model) -> None:
        self.model = model
        model.network.requires_grad_(False)

    def logits(self, sequences: Sequence[Sequence[int]], first: Sequence[int]) -> Rows:
        """Of every token from index first[i] (at least 1) on: a function from some of these rows, the sequences' one
        after the other, to what the token was chosen by, fp32 [n, V]."""
        model = self.model
        for ids in sequences:
            model.check(ids)
        whole = [(ids, start) for ids, start in zip(sequences, first, strict=True) if len(ids) > start]
        lengths = [len(ids) - 1 for ids, _ in whole]
        ids_T = torch.tensor([token for ids, _ in whole for token in ids[:-1]], device=model.device)
        wanted = [row >= start - 1 for ids, start in whole for row in range(len(ids) - 1)]
        wanted_T = torch.tensor(wanted, device=model.device)
        eager = Eager(ids_T, lengths) if model.native else None
        with torch.no_grad():
            if eager is not None:
                hidden_TD = model.network(eager.ids, EagerAttention(eager, model.cache_dtype)).tensor
            else:
                hidden_TD = model.network(ids_T, PackedAttention(lengths, model.device))
            hidden_ND = hidden_TD[wanted_T]

        def rows(some: slice) -> Tensor:
            with torch.no_grad():
                if eager is not None:
                    logits_NV: Tensor = model.network.head(Native(eager, hidden_ND[some])).tensor
                else:
                    logits_NV = model.network.head(hidden_ND[some])
                return logits_NV

        return rows

    def describe(self) -> str:
        """A line for people, before the first step."""
        return f"teacher: {self.model.name}, {self.model.network.weight_bytes / 1e9:.2f} GB, with the same vocabulary"


def check_same_vocabulary(student: Model, teacher: Model) -> None:
    """Raises BadRequest where a token id does not mean the same to both."""
    own, other = student.tokenizer.vocabulary(), teacher.tokenizer.vocabulary()
    if differing := len(own.items() ^ other.items()):
        raise BadRequest(
            f"{teacher.name} and {student.name} have different vocabularies ({differing:,} entries differ), so their "
            "probabilities cannot be compared; take a teacher of the same family, or have its replies learned "
            '(kind = "distill")'
        )
