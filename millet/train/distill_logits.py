"""Distillation of distributions: over given conversations, at every token that is learned, the student's probabilities
of all tokens come to be its teacher's (Hinton et al., 1503.02531).

A token of data says one thing; a distribution says how likely everything else would have been, so that less data is
needed. Both models must have the same vocabulary.

Shape legend: N rows with a target.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from millet.errors import BadRequest
from millet.models.model import Model
from millet.train import devices
from millet.train.data import Example
from millet.train.divergence import Divergence, Sums, distance
from millet.train.loop import MicroBatch
from millet.train.sft import Sft, SftStage
from millet.train.stage import Context
from millet.train.teacher import Teacher, load_teacher
from millet.train.trainee import Trainee


@dataclass(frozen=True, kw_only=True)
class DistillLogitsStage(SftStage):
    """As `SftStage`, with a teacher: a model as `load` takes it, or the stage that made one.

    temperature: both models' logits are divided by it; above 1, unlikely tokens count more. cross_entropy: the weight,
    from 0 to 1, of the data's own tokens; the teacher has the rest.
    """

    teacher: str
    temperature: float = 1.0
    cross_entropy: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.temperature > 0:
            raise BadRequest(f"temperature is {self.temperature}; it must be above 0")
        if not 0 <= self.cross_entropy < 1:
            raise BadRequest(f"cross_entropy is {self.cross_entropy}; it must be from 0 to below 1, where sft begins")

    def parents(self, base: str) -> tuple[str, ...]:
        return (base, self.teacher)

    def prepare(self, trainee: Trainee, context: Context) -> tuple[DistillLogits, int]:
        teacher = load_teacher(self.teacher, trainee.model, context)
        limit = min(trainee.model.config.max_position_embeddings, teacher.model.config.max_position_embeddings)
        examples = self.examples(trainee.model, context, limit)
        method = DistillLogits(trainee, teacher, examples, self, context.seed)
        return method, method.steps


class _Trainee(Protocol):
    @property
    def model(self) -> Model: ...
    @property
    def head(self) -> Tensor: ...
    def logprobs(self, sequences: Sequence[Sequence[int]], first: Sequence[int] | None = None) -> list[Tensor]: ...
    def hidden(self, sequences: Sequence[Sequence[int]], first: Sequence[int]) -> tuple[Tensor, Tensor]: ...


class DistillLogits(Sft):
    """The method: `Sft` with another loss."""

    def __init__(
        self, trainee: _Trainee, teacher: Teacher, examples: Sequence[Example], stage: DistillLogitsStage, seed: int
    ) -> None:
        super().__init__(trainee, examples, stage, seed)
        self._student, self._teacher = trainee, teacher
        self._divergence = Divergence("forward", stage.temperature, stage.cross_entropy)

    def check(self) -> list[str]:
        return [self._teacher.describe(), *super().check()]

    def micro_batches(self, step: int) -> Iterator[MicroBatch]:
        packs = self.packs(step)
        learned = sum(int(e.learned.sum()) for pack in packs for e in pack)
        sums = Sums()
        for pack, weight in devices.deal(packs):
            sequences, first = [e.ids.tolist() for e in pack], [e.first for e in pack]
            hidden_ND, targets_N = self._student.hidden(sequences, first)
            # Between replies there are others' turns, which nobody learns.
            kept_N = torch.from_numpy(np.concatenate([e.learned[e.first :] for e in pack])).to(targets_N.device)
            found = distance(
                hidden_ND[kept_N],
                self._student.head,
                targets_N[kept_N],
                self._teacher.logits(sequences, first, kept_N),
                self._divergence,
                weight / learned,
            )
            sums.add(found, weight)
            yield MicroBatch(found.loss, tokens=weight * sum(map(len, pack)))
        self._metrics = {
            **sums.means(learned),
            "learned_tokens": learned,
            "sequences": sum(map(len, packs)),
        }
