"""Distillation of distributions: over given conversations, at every token that is learned, the student's probabilities
of all tokens come to be its teacher's (Hinton et al., 1503.02531).

A token of data says one thing; a distribution says how likely everything else would have been, so that less data is
needed. Both models must have the same vocabulary. Each reads a conversation by its own template (`taught`); what the
teacher has nothing to say of, the thoughts of a student whose teacher has none, is learned from the data's own tokens.

Shape legend: N rows with a target.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from millet.errors import BadRequest
from millet.models.model import Model
from millet.train import devices
from millet.train.data import Example, Reader, Renderer
from millet.train.divergence import Distance, Divergence, Sums, distance
from millet.train.loop import MicroBatch
from millet.train.loss import target_logprobs
from millet.train.sft import Sft, SftStage
from millet.train.stage import Context
from millet.train.taught import PairRenderer, Taught
from millet.train.teacher import Teacher, load_teacher
from millet.train.trainee import Trainee


@dataclass(frozen=True, kw_only=True)
class DistillLogitsStage(SftStage):
    """As `SftStage`, with a teacher: a model as `load` takes it, or the stage that made one.

    temperature: both models' logits are divided by it; above 1, unlikely tokens count more. cross_entropy: the weight,
    from 0 to 1, of the data's own tokens; the teacher has the rest. plain_data: files as in `data`, about which the
    teacher is not asked: they are learned as by `SftStage`.
    """

    teacher: str
    plain_data: tuple[str, ...] = ()
    temperature: float = 1.0
    cross_entropy: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.temperature > 0:
            raise BadRequest(f"temperature is {self.temperature}; it must be above 0")
        if not 0 <= self.cross_entropy < 1:
            raise BadRequest(f"cross_entropy is {self.cross_entropy}; it must be from 0 to below 1, where sft begins")

    def sources(self) -> tuple[str, ...]:
        return (*self.data, *self.plain_data)

    def parents(self, base: str) -> tuple[str, ...]:
        return (base, self.teacher)

    def prepare(self, trainee: Trainee, context: Context) -> tuple[DistillLogits, int]:
        teacher = load_teacher(self.teacher, trainee.model, context)
        limit = min(trainee.model.config.max_position_embeddings, teacher.model.config.max_position_embeddings)
        renderer = Renderer(trainee.model)
        both = PairRenderer(renderer, Renderer(teacher.model))
        files: list[tuple[Path, Reader]] = [(context.path(name), both) for name in self.data]
        files += [(context.path(name), renderer) for name in self.plain_data]
        examples = self.examples(trainee.model, renderer, files, limit, context.seed)
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
        compared = sum(int(_shared(e).sum()) for pack in packs for e in pack)
        sums = Sums()
        for pack, weight in devices.deal(packs):
            distances = [*self._distances(pack, weight / learned)]
            for found in distances:
                sums.add(found, weight)
            yield MicroBatch(
                torch.stack([found.loss for found in distances]).sum(), tokens=weight * sum(map(len, pack))
            )
        self._metrics = {
            **sums.means(learned, compared),
            "learned_tokens": learned,
            "sequences": sum(map(len, packs)),
        }

    def _distances(self, pack: Sequence[Example], scale: float) -> Iterator[Distance]:
        """Of the rows that are compared with the teacher's, and of those that learn what the data says."""
        hidden_ND, targets_N = self._student.hidden([e.ids.tolist() for e in pack], [e.first for e in pack])
        # Between replies there are others' turns, which nobody learns.
        learned_N = torch.from_numpy(np.concatenate([e.learned[e.first :] for e in pack])).to(targets_N.device)
        shared_N = torch.from_numpy(np.concatenate([_shared(e)[e.first :] for e in pack])).to(targets_N.device)
        head_VD = self._student.head
        if taught := [e.teacher for e in pack if isinstance(e, Taught)]:
            kept_N = torch.from_numpy(np.concatenate([e.learned[e.first :] for e in taught])).to(targets_N.device)
            rows = self._teacher.logits([e.ids.tolist() for e in taught], [e.first for e in taught], kept_N)
            yield distance(hidden_ND[shared_N], head_VD, targets_N[shared_N], rows, self._divergence, scale)
        plain_N = learned_N & ~shared_N
        if plain_N.any():
            missed = -target_logprobs(hidden_ND[plain_N], head_VD, targets_N[plain_N]).sum()
            yield Distance(missed * scale, kl=0.0, cross_entropy=missed.item(), agreement=0)


def _shared(example: Example) -> NDArray[np.bool_]:
    """Which of its tokens the teacher is asked about. bool [T]"""
    return example.shared if isinstance(example, Taught) else np.zeros_like(example.learned)
