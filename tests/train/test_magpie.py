"""A base that asks and answers itself: what is left as data, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import millet
from millet.errors import BadRequest
from millet.reasoning.assistant import Assistant
from millet.train.chain import train
from millet.train.lineage import read_lineage
from millet.train.magpie import MagpieStage, user_opening
from millet.train.metrics import read_log
from millet.train.recipe import read_recipe
from tests.reasoning.toys import toy_model
from tests.train.toy_recipe import STAGE, Heard, one_thread, write_toy  # noqa: F401 - a fixture

pytestmark = pytest.mark.usefixtures("one_thread")

MAGPIE = '\n[[stage]]\nkind = "magpie"\nturns = 40\nturn_tokens = 24\nmax_tokens = 24\nbatch = 4\n'


@pytest.fixture(scope="module")
def speaker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A toy that has learned to say one thing, and to end."""
    folder = tmp_path_factory.mktemp("speaker")
    recipe = write_toy(folder, epochs=15, stages=STAGE.replace("512", "256"))
    said = ["How are you?", "I say so to you."]
    chats = [[{"role": role, "content": text} for role, text in zip(("user", "assistant"), said, strict=True)]] * 60
    (folder / "sums.jsonl").write_text("".join(json.dumps({"messages": chat}) + "\n" for chat in chats))
    train(read_recipe(recipe), folder / "out", Heard())
    return folder / "out" / "1-sft" / "model"


def write(folder: Path, base: Path, stages: str = MAGPIE) -> Path:
    recipe = folder / "recipe.toml"
    recipe.write_text(f'seed = 3\n[model]\nbase = "{base}"\ndevice = "cpu"\n{stages}')
    return recipe


def test_a_user_speaks_behind_the_opening() -> None:
    model = toy_model(7)
    assert model.template is not None
    text = model.template.render([{"role": "user", "content": "Hello"}], add_generation_prompt=False)
    assert text.startswith(model.tokenizer.decode(user_opening(model), skip_special=False) + "Hello")


def test_it_answers_what_it_asks(tmp_path: Path, speaker: Path) -> None:
    heard = Heard()
    train(read_recipe(write(tmp_path, speaker)), tmp_path / "out", heard)
    folder = tmp_path / "out" / "1-magpie"
    records = read_log(folder / "metrics.jsonl")
    assert len(records) == 10, "40 turns, 4 together"
    asked = sum(record["asked"] for record in records)
    rows = [json.loads(line) for line in (folder / "data.jsonl").read_text().splitlines()]
    assert 0 < len(rows) <= asked <= 40
    assert len({row["messages"][0]["content"] for row in rows}) == len(rows), "none twice"
    assert len({row["source"]["index"] for row in rows}) == len(rows), "each of a turn of its own"
    with Assistant(speaker) as base:
        for question, answer in (row["messages"] for row in rows):
            said = base.chat([question], think="off", temperature=0.0, max_tokens=24)
            assert answer == {"role": "assistant", "content": said.content}
    assert heard.lines[-1] == f"magpie: kept {len(rows)} answers to {asked} questions"
    ledger = read_lineage(folder)["ledger"]  # type: ignore[index]
    answered = sum(row["source"]["tokens"] for row in rows)
    assert ledger["sampled_tokens"] > answered + 2 * len(rows), "the questions are counted as well"
    assert ledger["flops"] == 2 * millet.load(speaker).config.num_parameters * ledger["sampled_tokens"]


def test_the_same_seed_asks_the_same(tmp_path: Path, speaker: Path) -> None:
    made = []
    for name in ("a", "b"):
        train(read_recipe(write(tmp_path, speaker)), tmp_path / name, Heard())
        made.append((tmp_path / name / "1-magpie" / "data.jsonl").read_bytes())
    assert made[0] == made[1]


def test_a_later_stage_learns_from_it(tmp_path: Path, speaker: Path) -> None:
    learn = STAGE.format(epochs=1).replace("sums.jsonl", "stage:magpie")
    whole = train(read_recipe(write(tmp_path, speaker, MAGPIE + learn)), tmp_path / "out", Heard())
    assert whole["stages"]["sft"]["ledger"]["tokens"] > 0


def test_a_base_that_never_ends_is_refused(tmp_path: Path) -> None:
    toy_model(7).save(tmp_path / "toy")
    short = MAGPIE.replace("turns = 40", "turns = 3")
    with pytest.raises(BadRequest, match="ended none of its questions within 24 tokens"):
        train(read_recipe(write(tmp_path, tmp_path / "toy", short)), tmp_path / "out", Heard())


def test_a_model_without_conversations_is_refused() -> None:
    model = toy_model(7)
    model.template = None
    with pytest.raises(BadRequest, match="no chat template"):
        user_opening(model)


def test_impossible_settings_are_one_line() -> None:
    with pytest.raises(BadRequest, match="turns is 0"):
        MagpieStage(name="magpie", turns=0)
