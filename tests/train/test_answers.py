"""A base's own answers behind thoughts that were written: which are kept, and what there is to tell of them."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import millet
from millet.errors import BadRequest, OutOfMemory
from millet.kernels.cpu import Memory
from millet.reasoning.assistant import Assistant
from millet.reasoning.reply import Reply, Usage
from millet.tasks.task import Grade, Problem
from millet.train import harvest
from millet.train.answers import AnswersStage, Behind, read_thoughts, repeats
from millet.train.chain import train
from millet.train.lineage import read_lineage
from millet.train.metrics import read_log
from millet.train.recipe import read_recipe
from tests.reasoning.toys import toy_model
from tests.train.toy_recipe import STAGE, Heard, one_thread, write_toy  # noqa: F401 - a fixture

pytestmark = pytest.mark.usefixtures("one_thread")

SAYS = "I say so to you."
ANSWERS = '\n[[stage]]\nkind = "answers"\ndata = "everyday.jsonl"\nbatch = 2\nmax_tokens = 24\n'


@pytest.fixture(scope="module")
def speaker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A toy that has learned to say one thing and to end."""
    folder = tmp_path_factory.mktemp("speaker")
    recipe = write_toy(folder, epochs=15, stages=STAGE.replace("512", "256"))
    turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": SAYS}]
    rows = [{"messages": [{**turns[0], "content": f"What is {n}?"}, turns[1]]} for n in range(60)]
    (folder / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    train(read_recipe(recipe), folder / "out", Heard())
    return folder / "out" / "1-sft" / "model"


def write(folder: Path, base: Path, count: int = 7, stages: str = ANSWERS) -> Path:
    folder.mkdir(exist_ok=True)
    rows = [{"question": f"What is {n}?", "reasoning": f"They ask about {n}."} for n in range(count)]
    (folder / "everyday.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = folder / "recipe.toml"
    recipe.write_text(f'seed = 3\n[model]\nbase = "{base}"\ndevice = "cpu"\n{stages}')
    return recipe


def rows(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "1-answers" / "data.jsonl").read_text().splitlines()]


def test_each_question_gets_what_the_base_says_behind_its_thought(tmp_path: Path, speaker: Path) -> None:
    heard = Heard()
    train(read_recipe(write(tmp_path, speaker)), tmp_path / "out", heard)
    found = rows(tmp_path / "out")
    assert {row["messages"][0]["content"] for row in found} == {f"What is {n}?" for n in range(7)}
    with Assistant(speaker) as base:
        for question, answer in (row["messages"] for row in found):
            said = base.chat([question], think="off", temperature=0.0, max_tokens=24)
            assert answer["content"] == said.content == SAYS
            assert answer["reasoning"] == question["content"].replace("What is", "They ask about").replace("?", ".")
    assert re.fullmatch(r"memory: .* GB beside the weights, of .* GB that are free", heard.lines[0])
    assert re.fullmatch(r"time: about .* for 4 batches; cost: about .* USD", heard.lines[1])
    assert heard.lines[2:] == ["answers: kept 7 answers to 7 questions"]
    assert heard.begun == [("answers", 0, 4)]
    records = read_log(tmp_path / "out" / "1-answers" / "metrics.jsonl")
    assert [(record["asked"], record["kept"]) for record in records] == [(2, 2), (2, 2), (2, 2), (1, 1)]
    assert not any("right" in record for record in records), "nobody has graded them"
    ledger = read_lineage(tmp_path / "out" / "1-answers")["ledger"]  # type: ignore[index]
    weights = millet.load(speaker).config.num_parameters
    assert ledger["flops"] == 2 * weights * ledger["sampled_tokens"] > 0


def test_answers_can_be_sampled(tmp_path: Path, speaker: Path) -> None:
    """At temperature 0 it says what it has learned; hot enough, all kinds of things."""
    stages = f'{ANSWERS}thoughts = "off"\nlonger = "cut"\ntemperature = 3.0\n'
    train(read_recipe(write(tmp_path, speaker, count=40, stages=stages)), tmp_path / "out", Heard())
    said = [row["messages"][1]["content"] for row in rows(tmp_path / "out")]
    assert {*said} - {SAYS}, said
    with pytest.raises(BadRequest, match="temperature is -1"):
        AnswersStage(name="answers", data="x", temperature=-1)


def test_a_later_stage_learns_from_it(tmp_path: Path, speaker: Path) -> None:
    learn = STAGE.format(epochs=1).replace("sums.jsonl", "stage:answers")
    whole = train(read_recipe(write(tmp_path, speaker, stages=ANSWERS + learn)), tmp_path / "out", Heard())
    assert list(whole["stages"]) == ["answers", "sft"]
    assert whole["stages"]["sft"]["ledger"]["tokens"] > 0


def test_answers_without_thoughts_are_what_it_says_that_is_not_to_think(tmp_path: Path, speaker: Path) -> None:
    recipe = write(tmp_path, speaker, stages=f"{ANSWERS}thoughts = 'off'\n")
    (tmp_path / "everyday.jsonl").write_text('{"question": "What is 3?"}\n')
    train(read_recipe(recipe), tmp_path / "out", Heard())
    (row,) = rows(tmp_path / "out")
    assert row["messages"][1] == {"role": "assistant", "content": SAYS}


def test_answers_both_ways(tmp_path: Path, speaker: Path) -> None:
    recipe = write(tmp_path, speaker, count=3, stages=f"{ANSWERS}thoughts = 'both'\n")
    train(read_recipe(recipe), tmp_path / "out", Heard())
    found = [(row["messages"][0]["content"], row["messages"][1].get("reasoning")) for row in rows(tmp_path / "out")]
    assert sorted(found, key=str) == sorted(
        ((f"What is {n}?", thought) for n in range(3) for thought in (None, f"They ask about {n}.")), key=str
    )


def test_a_base_that_never_ends_is_refused(tmp_path: Path) -> None:
    model = toy_model(7)
    model.save(tmp_path / "toy")
    with pytest.raises(BadRequest, match="ended none of its answers within 24 tokens"):
        train(read_recipe(write(tmp_path, tmp_path / "toy", count=1)), tmp_path / "out", Heard())


def test_a_cache_that_does_not_fit_is_refused(tmp_path: Path, speaker: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = millet.load(speaker)
    each = model.config.num_layers * 2 * model.config.num_kv_heads * model.config.head_dim
    needed = 16384 * each * model.cache_dtype.itemsize
    monkeypatch.setattr(harvest, "read_memory", lambda: Memory(10**9, needed - 1))
    with pytest.raises(OutOfMemory, match=r"the cache of 16,384 tokens needs .* lower cache_tokens"):
        train(read_recipe(write(tmp_path, speaker)), tmp_path / "out", Heard())
    monkeypatch.setattr(harvest, "read_memory", lambda: Memory(10**9, needed))
    train(read_recipe(write(tmp_path, speaker)), tmp_path / "out", Heard())


@pytest.mark.parametrize(("changes", "good"), [
    ({}, True),
    ({"reasoning": "Hm."}, True),
    ({"finish_reason": "length"}, False),
    ({"content": " \n"}, False),
    ({"content": "Fine.\x00"}, False),
    ({"content": "Fine \ufffd"}, False),
    ({"content": "You can walk there in an hour. " * 3}, False),
    ({"content": "1. Bread\n2. Milk\n3. Eggs"}, True),
])  # fmt: skip
def test_what_is_kept(changes: dict[str, Any], good: bool) -> None:
    reply = replace(Reply("", "I am fine, and you?", "stop", Usage()), **changes)
    behind = Behind({"How are you?": "A greeting."}, toy_model(0).tokenizer, alone=False)
    found = list(behind(Problem("How are you?", ""), {"index": 4}, [reply], [Grade(1.0)]))
    assert [row["messages"][1]["reasoning"] for row in found] == ["A greeting."] * good
    assert all(row["source"] == {"index": 4, "tokens": 0} for row in found)


def test_an_answer_that_was_cut_off_is_kept_where_that_is_wanted_and_says_so() -> None:
    cut = Reply("", "I am fine, and", "length", Usage())
    behind = Behind({}, toy_model(0).tokenizer, alone=True, cut=True)
    for reply, unfinished in ((cut, True), (replace(cut, finish_reason="stop"), None)):
        (row,) = behind(Problem("How are you?", ""), {}, [reply], [Grade(1.0)])
        assert row["messages"][1].get("unfinished") is unfinished
    assert not list(behind(Problem("How are you?", ""), {}, [replace(cut, finish_reason="cancelled")], [Grade(1.0)]))


def test_an_answer_that_does_not_end_is_learned_as_far_as_it_goes(tmp_path: Path, speaker: Path) -> None:
    stages = f"{ANSWERS.replace('24', '4')}longer = 'cut'\n"
    train(read_recipe(write(tmp_path, speaker, stages=stages)), tmp_path / "out", Heard())
    found = [(row["messages"][1], row["source"]["tokens"]) for row in rows(tmp_path / "out")]
    assert len(found) == 7
    for answer, tokens in found:
        assert answer["unfinished"] is True
        assert SAYS.startswith(answer["content"])
        assert len(answer["content"]) < len(SAYS)
        assert tokens == 4


@pytest.mark.parametrize(("ids", "found"), [
    ([*range(60)], False),
    ([*range(10)] * 2, False),
    ([*range(10)] * 3, True),
    ([99, *[*range(10)] * 3, 98], True),
    ([5] * 16, False),
    ([5] * 30, True),
])  # fmt: skip
def test_repeats(ids: list[int], found: bool) -> None:
    assert repeats(ids) is found


@pytest.mark.parametrize(("lines", "message"), [
    (['{"question": "a?"}'], "has no reasoning"),
    (['{"question": "a?", "reasoning": " "}'], "row 1, must have some text"),
    (['{"question": "a?", "reasoning": "b"}'] * 2, "row 2, asks what an earlier row asks"),
    ([], "is empty"),
])  # fmt: skip
def test_a_file_that_is_none_is_one_line(tmp_path: Path, lines: list[str], message: str) -> None:
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    with pytest.raises(BadRequest, match=message):
        read_thoughts(tmp_path / "rows.jsonl")


def test_impossible_settings_are_one_line() -> None:
    with pytest.raises(BadRequest, match="max_tokens is 0"):
        AnswersStage(name="answers", data="rows.jsonl", max_tokens=0)
