"""Questions that an instruct model asks itself, and its answers: what it says of its own accord, to be rehearsed.

Behind the opening of a user's turn such a model writes what users ask (Magpie, Xu et al. 2024, arXiv:2406.08464). Its
answers, learned beside what is new, keep it from forgetting how it talks, and nobody has to have data for it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from millet.engine.engine import Engine
from millet.engine.sampling import Sampling
from millet.errors import BadRequest
from millet.models.chat_template import encode_chat
from millet.models.load import load
from millet.models.model import Model
from millet.tasks.task import Problem
from millet.train.answers import Answering, Behind
from millet.train.batches import FOLDER, Batch, Batches, gather
from millet.train.harvest import printable, sampler, spent
from millet.train.ledger import Arithmetic, Stopwatch
from millet.train.stage import Context, Outcome, active_weights

PLACE = "millet"  # stands where a user's text would; any word does


@dataclass(frozen=True, kw_only=True)
class MagpieStage(Answering):
    """Leaves data for the stages after it: questions and answers, without thoughts.

    turns: of a user, sampled at temperature 1, `batch` of them together; those without text, or said before, are left
    out. turn_tokens: of one; what is not over by then is left out.
    """

    turns: int = 1000
    turn_tokens: int = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("turns", "turn_tokens"):
            if getattr(self, name) < 1:
                raise BadRequest(f"{name} is {getattr(self, name)}; it must be at least 1")

    def run(self, context: Context) -> Outcome:
        model = load(context.base, device=context.device)
        batches = Batches(context.folder / FOLDER, -(-self.turns // self.batch))
        with sampler(model, self.cache_tokens, context.progress) as engine:
            gather(batches, partial(self._work, batches, engine, context.seed), self.name, context)
        asked = sum(batch.record["asked"] for batch in batches.read())
        if not asked:
            raise BadRequest(
                f"{model.name} ended none of its questions within {self.turn_tokens} tokens; raise turn_tokens, or "
                "take a base that was trained on conversations"
            )
        return self.outcome(batches, asked, model, context)

    def _work(self, batches: Batches, engine: Engine, seed: int, stopping: Callable[[], bool]) -> Iterator[Batch]:
        model, rollouts = engine.model, self.answering(engine)
        select = Behind({}, model.tokenizer, alone=True)
        arithmetic = Arithmetic(active_weights(model), trained=0)
        watch = Stopwatch(gpu=model.device.type == "cuda")
        rng = random.Random(f"{seed}")
        seeds = {turn: rng.randrange(2**62) for turn in range(self.turns)}
        for number in range(batches.whole):
            if number in batches:
                continue
            if stopping():
                return
            turns = range(number * self.batch, min((number + 1) * self.batch, self.turns))
            questions, sampled = self._ask(engine, {turn: seeds[turn] for turn in turns})
            groups = rollouts.sample(list(questions), 1, [seeds[turn] for turn in questions.values()])
            kept: list[dict[str, Any]] = []
            for (question, turn), group in zip(questions.items(), groups, strict=True):
                replies = [sample.reply for sample in group.samples]
                sampled += sum(reply.usage.completion_tokens for reply in replies)
                source = {"task": self.name, "level": 0, "index": turn, "seed": seed}
                kept += select(Problem(question, ""), source, replies, [])
            cost, speed = spent(watch, sampled, arithmetic)
            yield batches.write(number, kept, {"asked": len(questions), **speed}, cost)

    def _ask(self, engine: Engine, seeds: Mapping[int, int]) -> tuple[dict[str, int], int]:
        """What users' turns of these numbers say, if anything, each once; and how many tokens that took."""
        opening = user_opening(engine.model)
        generations = [
            engine.submit(opening, Sampling(temperature=1.0, max_tokens=self.turn_tokens, seed=seed))
            for seed in seeds.values()
        ]
        questions: dict[str, int] = {}
        sampled = 0
        for turn, generation in zip(seeds, generations, strict=True):
            (completion,) = generation.result()
            sampled += len(completion.token_ids)
            question = engine.model.tokenizer.decode(completion.token_ids).strip()
            if completion.finish_reason == "stop" and question and printable(question):
                questions.setdefault(question, turn)
        return questions, sampled


def user_opening(model: Model) -> list[int]:
    """The ids that a user's first text comes after. Raises BadRequest for a model that has no chat template."""
    if model.template is None:
        raise BadRequest(f"{model.name} has no chat template, so it writes no questions; take an instruct model")
    messages = [{"role": "user", "content": PLACE}]
    ids = encode_chat(model.template, model.tokenizer, messages, add_generation_prompt=False)
    place = model.tokenizer.encode_plain(PLACE, at_start=False)
    for at in range(len(ids) - len(place) + 1):
        if ids[at : at + len(place)] == place:
            return ids[:at]
    raise BadRequest(f"the chat template of {model.name} does not show a user's text as it is; take another base")
