"""Whether a model that was trained still talks: what its base would answer, and how it thinks, on everyday questions.

The base answers each question at once, at temperature 0, and its perplexity on its own answers is held beside that of
the model on the same tokens. Both read the question with thinking off, as each one's template has it; a model that was
taught to think sees an empty thought there, and the base nothing. Then the model replies by itself, with a thought.

Figures are means over all tokens, or all replies. Letters: N questions, M figures, B resamples, as in `bootstrap`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from millet.engine.sampling import Sampling
from millet.errors import BadRequest, PromptTooLong
from millet.evaluate.bootstrap import Array, Estimate, interval, ratios, resampled
from millet.evaluate.harness import BATCH, replies_to
from millet.evaluate.provenance import lineage_of
from millet.evaluate.results import Settings
from millet.models.model import Model
from millet.reasoning.assistant import Assistant
from millet.reasoning.prompt import Think
from millet.reasoning.reply import Reply
from millet.reasoning.run import Prepared
from millet.tasks.items import read_jsonl

ANSWER_TOKENS = 256  # of an answer of the base; what is longer is cut off there
RESAMPLES = 10_000
SHARE = (0.0, 1.0)


@dataclass(frozen=True, slots=True)
class Said:
    """An answer of the base. surprise: -ln p of all its tokens together."""

    question: str
    ids: list[int]
    surprise: float


@dataclass(frozen=True, slots=True)
class OwnAnswers:
    """base: who gave them; vocabulary: its tokens."""

    base: str
    vocabulary: Mapping[str, int]
    said: list[Said]


@dataclass(frozen=True, slots=True)
class Talk:
    """What was found. figures: by name, in the order in which they are told; perplexities, `rise` (the model's less the
    base's, as a share of the base's), the share of replies whose thought closed by itself, tokens of a thought.
    lineage: what the model's training wrote about it, None where nothing did."""

    model: str
    base: str
    questions: list[str]
    replies: list[Reply]
    figures: dict[str, Estimate | None]
    lineage: Any = None


def read_questions(path: Path, most: int) -> list[str]:
    """The first ones of a file of JSON lines with `question`. Raises BadRequest."""
    found = [row["question"] for row in read_jsonl(path, ["question"])[:most]]
    if not all(isinstance(question, str) and question.strip() for question in found):
        raise BadRequest(f"{path} has a question that is no text; each line must have one")
    return found


def own_answers(base: Assistant, questions: Sequence[str]) -> OwnAnswers:
    """What the base says to each question without a thought, and how likely it finds that."""
    prompts = [_prepare(base, question, "off", max_tokens=ANSWER_TOKENS).prompt for question in questions]
    sampling = Sampling(temperature=0.0, max_tokens=ANSWER_TOKENS)
    under_way = [base.engine.submit(prompt, sampling) for prompt in prompts]
    answers = [generation.result()[0].token_ids for generation in under_way]
    said = [
        Said(question, ids, surprise(base.model, prompt, ids))
        for question, prompt, ids in zip(questions, prompts, answers, strict=True)
    ]
    return OwnAnswers(base.model.name, base.model.tokenizer.vocabulary(), said)


def measure(model: Assistant, own: OwnAnswers, settings: Settings) -> Talk:
    """The model beside its base. settings: of the model's own replies; `problems` and `k` are not looked at.

    Raises BadRequest for a model whose tokens are not its base's.
    """
    if model.model.tokenizer.vocabulary() != own.vocabulary:
        raise BadRequest(
            f"{model.model.name} and {own.base} have different vocabularies, so that their perplexities cannot be "
            "compared; name the model that it was trained from"
        )
    surprises = [
        surprise(model.model, _prepare(model, said.question, "off", max_tokens=ANSWER_TOKENS).prompt, said.ids)
        for said in own.said
    ]
    questions = [said.question for said in own.said]
    requests = [
        _prepare(
            model,
            question,
            settings.think,
            max_tokens=settings.max_tokens,
            temperature=settings.temperature,
            seed=settings.seed + number,
        )
        for number, question in enumerate(questions)
    ]
    answered = dict(replies_to(requests, 2 * BATCH))
    replies = [answered[number][0] for number in range(len(requests))]
    figures = _figures(own.said, surprises, replies)
    return Talk(model.model.name, own.base, questions, replies, figures, lineage_of(model.model))


def surprise(model: Model, prompt: Sequence[int], ids: Sequence[int]) -> float:
    """-ln p of these ids after the prompt, summed."""
    with torch.no_grad():
        (logprobs_T,) = model.logprobs([[*prompt, *ids]])
    return -float(logprobs_T[len(prompt) - 1 :].double().sum())


def _prepare(assistant: Assistant, question: str, think: Think, **options: float) -> Prepared:
    try:
        return assistant.prepare([{"role": "user", "content": question}], think=think, **options)  # type: ignore[arg-type]
    except PromptTooLong as error:
        raise PromptTooLong(f"an everyday question: {error}", error.prompt_tokens) from error


def _figures(said: Sequence[Said], surprises: Sequence[float], replies: Sequence[Reply]) -> dict[str, Estimate | None]:
    values_NM2 = np.array(
        [
            [
                (each.surprise, len(each.ids)),
                (surprise, len(each.ids)),
                (reply.thought_ended == "model", 1),
                (reply.usage.reasoning_tokens, 1),
            ]
            for each, surprise, reply in zip(said, surprises, replies, strict=True)
        ],
        dtype=float,
    )
    values_M, drawn_BM = ratios(values_NM2), resampled(values_NM2, np.random.default_rng(0), RESAMPLES)
    shown = {name: (float(_told(values_M)[name]), _told(drawn_BM)[name]) for name in _told(values_M)}
    return {
        name: interval(value, drawn_B, len(said), SHARE if name == "closed_itself" else None)
        for name, (value, drawn_B) in shown.items()
    }


def _told(figures_M: Array) -> dict[str, Array]:
    """The figures as people know them, from the means; also of many resamples at once."""
    base, model, closed, tokens = np.moveaxis(figures_M, -1, 0)
    return {
        "base_perplexity": np.exp(base),
        "perplexity": np.exp(model),
        "rise": np.exp(model - base) - 1,
        "closed_itself": closed,
        "thinking_tokens": tokens,
    }
