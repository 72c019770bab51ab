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
from millet.models.load import load
from millet.models.model import Model
from millet.train.divergence import Rows
from millet.train.stage import Context


class Teacher:
    """Its weights stay in the form that they were loaded in, 4-bit ones too, and never learn. name: for people."""

    def __init__(self, model: Model, name: str) -> None:
        self.model, self._name = model, name
        model.network.requires_grad_(False)

    def logits(self, sequences: Sequence[Sequence[int]], first: Sequence[int], kept_N: Tensor | None = None) -> Rows:
        """The rows of `Trainee.hidden`, as this model sees them: a function from some of them to logits, fp32 [n, V].

        kept_N: which of them are counted, bool; by default all.
        """
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
            hidden_ND = hidden_ND if kept_N is None else hidden_ND[kept_N]

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
        return f"teacher: {self._name}, {self.model.network.weight_bytes / 1e9:.2f} GB, with the student's vocabulary"


def load_teacher(name: str, student: Model, context: Context) -> Teacher:
    """The model that a recipe calls so, in the form that its file has. Raises BadRequest where a token id does not mean
    the same to both."""
    model = load(context.model(name), device=context.device)
    differing = len(student.tokenizer.vocabulary().items() ^ model.tokenizer.vocabulary().items())
    if differing:
        raise BadRequest(
            f"the vocabulary of the teacher {name} is not the student's ({differing:,} entries differ), so their "
            'probabilities cannot be compared; take one of its family, or learn from its replies (kind = "distill")'
        )
    return Teacher(model, name)
