"""Questions that an instruct model asks itself, and its answers: what it says of its own accord, to be rehearsed.

Behind the opening of a user's turn such a model writes what users ask (Magpie, Xu et al. 2024, arXiv:2406.08464). Its
answers, learned beside what is new, keep it from forgetting how it talks, and nobody has to have data for it.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass

from millet.engine.engine import Engine
from millet.engine.sampling import Sampling
from millet.errors import BadRequest
from millet.models.chat_template import encode_chat
from millet.models.load import load
from millet.models.model import Model
from millet.train.answers import Answering
from millet.train.checkpoint import write_atomically
from millet.train.harvest import printable, sampler
from millet.train.prompts import Prompts
from millet.train.stage import Context, Outcome

QUESTIONS = "questions.jsonl"  # in the stage's folder
PLACE = "millet"  # stands where a user's text would; any word does


@dataclass(frozen=True, kw_only=True)
class MagpieStage(Answering):
    """Leaves data for the stages after it: questions and answers, without thoughts.

    turns: of a user, sampled at temperature 1; those without text, or asked before, are left out. turn_tokens: of one;
    what is not over by then is left out.
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
        path = context.folder / QUESTIONS
        with sampler(model, self.cache_tokens, context.progress) as engine:
            if not path.exists():
                context.progress.say(f"{self.name}: {self.turns:,} turns of a user are sampled")
                found = dict.fromkeys(self._ask(engine, context.seed))
                if not found:
                    raise BadRequest(
                        f"{model.name} ended none of its questions within {self.turn_tokens} tokens; raise "
                        "turn_tokens, or take a base that was trained on conversations"
                    )
                lines = [json.dumps({"question": question}, ensure_ascii=False) + "\n" for question in found]
                write_atomically(path, "".join(lines))
            return self.answer(Prompts(self.name, path), {}, engine, context)

    def _ask(self, engine: Engine, seed: int) -> Iterator[str]:
        rng = random.Random(f"{seed}")
        opening = user_opening(engine.model)
        generations = [
            engine.submit(opening, Sampling(temperature=1.0, max_tokens=self.turn_tokens, seed=rng.randrange(2**62)))
            for _ in range(self.turns)
        ]
        for generation in generations:
            (completion,) = generation.result()
            question = engine.model.tokenizer.decode(completion.token_ids).strip()
            if completion.finish_reason == "stop" and question and printable(question):
                yield question


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
