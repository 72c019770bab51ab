"""`millet eval --talk`: whether a model still talks as its base does, and how it thinks on everyday questions."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from millet.cli.pull import ensure
from millet.cli.terminal import clean, console

if TYPE_CHECKING:
    from rich.console import Console

    from millet.evaluate.results import Settings
    from millet.evaluate.talk import Talk

# Figure -> the head of its column, and how its values are written.
COLUMNS = {
    "base_perplexity": ("perplexity\nof the base", "{:.2f}"),
    "perplexity": ("perplexity\nof the model", "{:.2f}"),
    "rise": ("rise", "{:+.1%}"),
    "closed_itself": ("thought closed\nby itself", "{:.1%}"),
    "thinking_tokens": ("thinking\ntokens", "{:.0f}"),
}


def measure_talk(model: str, base: str, questions: Path, settings: Settings, batch: int) -> Talk:
    """Loads one model after the other. Raises BadRequest for a file that is none before either."""
    from millet.engine.engine import Engine
    from millet.evaluate.talk import measure, own_answers, read_questions
    from millet.evaluate.wording import told_apart
    from millet.models.load import load
    from millet.reasoning.assistant import Assistant

    asked = read_questions(questions, settings.problems)
    screen = console(stderr=True)
    for name in (model, base):
        ensure(name)
    with (
        screen.status(f"Asking {clean(base)}…"),
        Engine(load(base, quantize=settings.quantize), max_batch=batch) as engine,
    ):
        own = own_answers(Assistant(engine), asked)
    with (
        screen.status(f"Asking {clean(model)}…"),
        Engine(load(model, quantize=settings.quantize), max_batch=batch) as engine,
    ):
        talk = measure(Assistant(engine), own, settings)
    called, beside = told_apart([talk.model, talk.base], [model, base])
    return replace(talk, model=called, base=beside)


def talk_as_json(talk: Talk, settings: Settings) -> str:
    figures = {name: estimate and asdict(estimate) for name, estimate in talk.figures.items()}
    told: dict[str, Any] = asdict(settings) | {"problems": len(talk.questions)}
    found = {"model": talk.model, "base": talk.base, "settings": told, "figures": figures, "lineage": talk.lineage}
    return json.dumps(found, indent=2)


def show_talk(screen: Console, talk: Talk) -> None:
    """One line of figures with their intervals."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    title = f"{talk.model} beside {talk.base}, {len(talk.questions)} everyday questions"
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, title=clean(title), title_justify="left")
    cells = []
    for name, (head, form) in COLUMNS.items():
        table.add_column(head, justify="right")
        estimate = talk.figures[name]
        if estimate is None:
            cells.append(Text("–"))
            continue
        between = f"\n{form.format(estimate.low)} to {form.format(estimate.high)}"
        cells.append(Text(form.format(estimate.value)).append(between, style="dim"))
    table.add_row(*cells)
    screen.print(table)


def write_replies(talk: Talk, path: Path) -> None:
    """One line of JSON for each reply, whole texts included."""
    with path.open("w", encoding="utf-8") as file:
        for question, reply in zip(talk.questions, talk.replies, strict=True):
            line = {
                "model": talk.model,
                "prompt": question,
                "reasoning": reply.reasoning,
                "content": reply.content,
                "finish_reason": reply.finish_reason,
                "thought_ended": reply.thought_ended,
                "reasoning_tokens": reply.usage.reasoning_tokens,
                "completion_tokens": reply.usage.completion_tokens,
            }
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
