"""Whether a model still talks: perplexities against the engine's own and against sums by hand, and the command."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from millet.cli.eval import evaluate
from millet.engine.sampling import Sampling
from millet.errors import BadRequest
from millet.evaluate.results import Settings
from millet.evaluate.talk import Said, _figures, measure, own_answers, read_questions
from millet.models.model import Model
from millet.reasoning.assistant import Assistant
from millet.reasoning.reply import Reply, Usage
from tests.reasoning.toys import toy_model

ASKED = ["How are you?", "What is a cat?", "Why?"]
QUICK = Settings(problems=3, max_tokens=24, think=6)


def reply(ended: Any, tokens: int) -> Reply:
    return replace(Reply("Hm.", "Fine.", "stop", Usage(reasoning_tokens=tokens)), thought_ended=ended)


def test_a_model_beside_itself_finds_its_answers_as_likely() -> None:
    with Assistant(toy_model(1)) as model:
        talk = measure(model, own_answers(model, ASKED), QUICK)
    rise = talk.figures["rise"]
    assert rise is not None
    assert rise.value == rise.low == rise.high == 0.0


def test_a_model_beside_another_does_not() -> None:
    with Assistant(toy_model(1)) as base, Assistant(toy_model(2)) as model:
        talk = measure(model, own_answers(base, ASKED), QUICK)
    figures = {name: estimate.value for name, estimate in talk.figures.items() if estimate}
    assert abs(figures["rise"]) > 1e-6
    assert figures["rise"] == pytest.approx(figures["perplexity"] / figures["base_perplexity"] - 1)
    assert talk.questions == ASKED
    assert len(talk.replies) == 3


def test_the_base_answers_without_a_thought_and_its_perplexity_is_the_engines() -> None:
    with Assistant(toy_model(3)) as base:
        said = own_answers(base, ASKED).said
        for each in said:
            prompt = base.prepare([{"role": "user", "content": each.question}], think="off").prompt
            sampling = Sampling(temperature=0.0, max_tokens=len(each.ids), logprobs=True)
            (completion,) = base.engine.submit(prompt, sampling).result()
            assert completion.token_ids == each.ids
            assert -sum(completion.logprobs or []) == pytest.approx(each.surprise, rel=1e-4)


def test_figures_by_hand() -> None:
    said = [Said("a", [1, 2], 2.0), Said("b", [1, 2, 3, 4, 5, 6], 2.0)]
    replies = [reply("model", 10), reply("budget", 40)]
    found = {name: estimate.value for name, estimate in _figures(said, [3.0, 5.0], replies).items() if estimate}
    assert found == pytest.approx({
        "base_perplexity": math.exp(4 / 8),
        "perplexity": math.exp(8 / 8),
        "rise": math.exp(4 / 8) - 1,
        "closed_itself": 0.5,
        "thinking_tokens": 25.0,
    })  # fmt: skip


def test_another_vocabulary_is_refused() -> None:
    with Assistant(toy_model(1)) as base:
        own = own_answers(base, ASKED[:1])
    refused = pytest.raises(BadRequest, match="different vocabularies")
    with Assistant(toy_model(1, "r1_distill_qwen")) as model, refused:
        measure(model, own, QUICK)


def test_questions_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "asked.jsonl"
    path.write_text("".join(json.dumps({"question": each}) + "\n" for each in ASKED))
    assert read_questions(path, 2) == ASKED[:2]
    path.write_text('{"question": " "}\n')
    with pytest.raises(BadRequest, match="is no text"):
        read_questions(path, 2)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A file of questions; two random networks are there by name."""
    found: dict[str, Model] = {}
    for seed, name in enumerate(("one", "two")):
        found[name] = toy_model(seed)
        found[name].name = name
    monkeypatch.setattr("millet.cli.talk.ensure", lambda name: None)
    monkeypatch.setattr("millet.models.load.load", lambda name, quantize=None: found[name])
    path = tmp_path / "asked.jsonl"
    path.write_text("".join(json.dumps({"question": each}) + "\n" for each in ASKED))
    return path


@pytest.fixture
def namesakes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Path]:
    """Models that the same stage of two runs has made, a and b."""
    paths = [tmp_path / run / "2-grpo" / "model" for run in "ab"]
    for path in paths:
        path.mkdir(parents=True)
        (path / "lineage.json").write_text(json.dumps({"sha256": f"of {path.parts[-3]}"}))

    def load(name: str, quantize: Any = None) -> Model:
        model = toy_model(1)
        model.name, model.path = "2-grpo", Path(name)
        return model

    monkeypatch.setattr("millet.models.load.load", load)
    return paths


def run(*words: str) -> Any:
    app = typer.Typer()
    app.command()(evaluate)
    return CliRunner().invoke(app, words)


WORDS = ("one", "--compare", "two", "--max-tokens", "24", "--think", "6", "--problems", "2")


def test_a_line_of_figures(asked: Path) -> None:
    result = run(*WORDS, "--talk", str(asked))
    assert result.exit_code == 0, result.output
    for text in ("one beside two, 2 everyday questions", "rise", "thought closed", "0.0%"):
        assert text in result.stdout


def test_for_programs_and_every_reply(asked: Path, tmp_path: Path) -> None:
    lines = tmp_path / "replies.jsonl"
    result = run(*WORDS, "--talk", str(asked), "--json", "--transcripts", str(lines))
    found = json.loads(result.stdout)
    assert (found["model"], found["base"], found["settings"]["think"]) == ("one", "two", 6)
    assert set(found["figures"]) == {"base_perplexity", "perplexity", "rise", "closed_itself", "thinking_tokens"}
    assert found["figures"]["closed_itself"]["low"] == 0.0
    assert found["lineage"] is None
    assert [json.loads(line)["prompt"] for line in lines.read_text().splitlines()] == ASKED[:2]


def test_the_lineage_is_told_and_namesakes_are_told_apart(asked: Path, namesakes: list[Path]) -> None:
    before, after = map(str, namesakes)
    found = json.loads(run(after, "--compare", before, *WORDS[3:], "--talk", str(asked), "--json").stdout)
    assert (found["model"], found["base"]) == (after, before)
    assert found["lineage"] == {"sha256": "of b"}


@pytest.mark.parametrize("words", [
    ("one", "--talk", "FILE"),
    ("one", "--talk", "FILE", "--compare", "two", "--tasks", "sums"),
    ("one", "--talk", "FILE", "--compare", "two", "--k", "4"),
    ("one", "--talk", "FILE", "--compare", "two", "--report", "report.html"),
    ("one",),
])  # fmt: skip
def test_what_does_not_go_together_is_refused(asked: Path, words: tuple[str, ...]) -> None:
    result = run(*(str(asked) if word == "FILE" else word for word in words))
    assert isinstance(result.exception, BadRequest)
    assert "--t" in str(result.exception)
