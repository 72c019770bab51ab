"""Supervised fine-tuning: the model learns to write the replies of given conversations.

The loss is the mean over the step's learned tokens of -log p, so that a long reply counts as much as its tokens, in
whatever micro-batch it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from millet.errors import BadRequest
from millet.models.model import Model
from millet.train import devices
from millet.train.data import Example, Packing, Reader, Renderer, render_files, thinking_template
from millet.train.loop import MicroBatch
from millet.train.stage import Context, TrainingStage
from millet.train.trainee import Trainee


@dataclass(frozen=True, kw_only=True)
class SftStage(TrainingStage):
    """data: JSONL files of conversations, beside the recipe, or "stage:NAME" for what an earlier stage has written.

    epochs: times that each conversation is seen. batch_tokens: of a step. micro_tokens: that go through the model at
    once, which is what memory depends on; no conversation may be longer. drop_longer: leave those out that are.
    following: share of the conversations, below 1, that come behind another one in the same chat, so that the model
    learns to answer what it is asked now; what comes before is read and not learned, without thoughts as in any chat.
    """

    data: tuple[str, ...]
    epochs: int = 1
    batch_tokens: int = 8192
    micro_tokens: int = 2048
    drop_longer: bool = False
    following: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.data:
            raise BadRequest("data names no file; name one")
        for name in ("epochs", "batch_tokens", "micro_tokens"):
            if getattr(self, name) < 1:
                raise BadRequest(f"{name} is {getattr(self, name)}; it must be at least 1")
        if not 0 <= self.following < 1:
            raise BadRequest(f"following is {self.following}; it must be from 0 to below 1")
        if self.batch_tokens % self.micro_tokens:
            raise BadRequest(
                f"batch_tokens is {self.batch_tokens} and micro_tokens {self.micro_tokens}; the first must be a "
                "multiple of the second"
            )

    def sources(self) -> tuple[str, ...]:
        return self.data

    def prepare(self, trainee: Trainee, context: Context) -> tuple[Sft, int]:
        limit = trainee.model.config.max_position_embeddings
        renderer = Renderer(trainee.model)
        files = [(context.path(name), renderer) for name in self.data]
        method = Sft(trainee, self.examples(trainee.model, renderer, files, limit, context.seed), self, context.seed)
        return method, method.steps

    def examples(
        self, model: Model, renderer: Renderer, files: Sequence[tuple[Path, Reader]], limit: int, seed: int
    ) -> list[Example]:
        """The files as this model, whose renderer it is, reads them. limit: tokens that a sequence may have, beside
        micro_tokens.

        A model that the data teaches to think says so from now on. Raises BadRequest for what cannot be learned from.
        """
        limit = min(self.micro_tokens, limit)
        rendered = render_files(files, self.following, seed, limit)
        if renderer.teaches_thinking and model.template is not None:
            model.template = thinking_template(model.template)
            model.tokenizer.config.pop("chat_template", None)  # where it may be kept too, as it was
        return self._fitting(rendered, limit)

    def _fitting(self, examples: Sequence[Example], limit: int) -> list[Example]:
        fitting = [example for example in examples if len(example) <= limit]
        longest = max(map(len, examples), default=0)
        if not fitting or (len(fitting) < len(examples) and not self.drop_longer):
            what = f"{len(examples) - len(fitting)} of {len(examples)} sequences are longer than {limit} tokens"
            raise BadRequest(
                f"{what} (the longest has {longest}); raise micro_tokens, up to the model's context, or set "
                "drop_longer = true"
                if examples
                else "the data has no conversation; add some"
            )
        return fitting


class _Trainee(Protocol):
    @property
    def model(self) -> Model: ...
    def logprobs(self, sequences: Sequence[Sequence[int]], first: Sequence[int] | None = None) -> list[Tensor]: ...


class Sft:
    """The method. steps: that all epochs take."""

    def __init__(self, trainee: _Trainee, examples: Sequence[Example], stage: SftStage, seed: int) -> None:
        self._trainee, self._examples, self._stage = trainee, examples, stage
        self._packing = Packing([len(e) for e in examples], stage.micro_tokens, seed, stage.epochs)
        self._micro_batches = stage.batch_tokens // stage.micro_tokens
        self._metrics: dict[str, float | None] = {}
        self._shown: Example | None = None
        self._packs = len(self._packing)
        self.steps = -(-self._packs // self._micro_batches)

    def check(self) -> list[str]:
        tokens = sum(map(len, self._examples))
        learned = sum(int(e.learned.sum()) for e in self._examples)
        full = tokens * self._stage.epochs / (self._packs * self._stage.micro_tokens)
        return [
            f"data: {len(self._examples):,} sequences of {tokens:,} tokens, {learned:,} of them learned, "
            f"in packs that are {full:.0%} full"
        ]

    def micro_batches(self, step: int) -> Iterator[MicroBatch]:
        packs = self.packs(step)
        learned = sum(int(e.learned.sum()) for pack in packs for e in pack)
        for pack, weight in devices.deal(packs):
            logprobs = self._trainee.logprobs([e.ids.tolist() for e in pack], [e.first for e in pack])
            kept = [_kept(values, example) for values, example in zip(logprobs, pack, strict=True)]
            yield MicroBatch(-torch.cat(kept).sum() / learned * weight, tokens=weight * sum(map(len, pack)))
        self._metrics = {"learned_tokens": learned, "sequences": sum(map(len, packs))}

    def packs(self, step: int) -> list[list[Example]]:
        """Those of the next step, which is this one."""
        packs = [[self._examples[i] for i in pack] for pack in self._packing.take(self._micro_batches)]
        self._shown = packs[0][0] if step == 0 else None
        return packs

    def metrics(self) -> Mapping[str, float | None]:
        return self._metrics

    def sample(self) -> Mapping[str, Any] | None:
        """Of the first step, one example as the model reads it, marks and all."""
        if self._shown is None:
            return None
        ids, tokenizer = self._shown.ids, self._trainee.model.tokenizer
        learned = ids[self._shown.learned].tolist()
        return {
            "read": tokenizer.decode(ids.tolist(), skip_special=False),
            "learned": tokenizer.decode(learned, skip_special=False),
        }

    def state(self) -> dict[str, Any]:
        return self._packing.state()

    def restore(self, state: Mapping[str, Any]) -> None:
        self._packing.restore(state)

    def close(self) -> None:
        pass


def _kept(logprobs: Tensor, example: Example) -> Tensor:
    """Of the tokens from the first learned one on, those that are learned: between replies there are others' turns."""
    return logprobs[torch.from_numpy(example.learned[example.first :]).to(logprobs.device)]
