"""The model card: all that it says comes from lineage, evaluations and card.toml, and nothing is left out silently."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from millet.cli.talk import talk_as_json
from millet.errors import BadRequest
from millet.evaluate.bootstrap import Estimate
from millet.evaluate.provenance import Origin
from millet.evaluate.report import Report
from millet.evaluate.results import Evaluation, Group, Settings
from millet.evaluate.talk import Talk
from millet.train import recipe
from millet.train.card import METHODS, TALK, datasets_of, model_card, read_card
from millet.train.checkpoint import file_hash
from tests.evaluate.toys import evaluation, solved

CARD = """
title = "A toy"
description = "It is small."
licence = "Apache-2.0"
base_model = "Org/Base-1M"
languages = ["en", "no"]
limits = ["It is a toy.", "It can be wrong."]
[[data]]
dataset = "reasoning-gym"
name = "Gym"
licence = "Apache-2.0"
source = "https://example.org/gym"
use = "problems"
[[data]]
dataset = "gsm8k"
name = "GSM8K"
licence = "MIT"
source = "https://example.org/gsm8k"
use = "more problems"
hub = "org/gsm8k"
[[data]]
dataset = "toy/everyday.jsonl"
name = "Everyday"
licence = "CC0-1.0"
source = "this project"
use = "talk"
"""


def ledger(hours: float, money: float, **counts: int) -> dict[str, Any]:
    seconds = 3600 * hours
    return {
        "wall_seconds": seconds,
        "cpu_seconds": 2 * seconds,
        "gpu_seconds": 0.0,
        "tokens": 0,
        "sampled_tokens": 0,
        "flops": 0.0,
        "money": money,
        "currency": "USD",
        **counts,
    }


def stage(kind: str, parent: str, cost: dict[str, Any], **more: Any) -> dict[str, Any]:
    counted = {key: more.pop(key) for key in ("conversations", "steps") if key in more}
    return {
        "configuration": {"kind": kind, **more},
        "seed": 7,
        "parents": {parent: "00"},
        "sha256": f"of {kind}",
        "code": {"version": "0.1.0", "sha256": "00"},
        "environment": {"python": "3.11.7", "torch": "2.13.0", "processes": 1, "threads": 2, "gpu": None},
        "ledger": cost,
        **counted,
    }


def lineage() -> dict[str, Any]:
    tasks = ["chain_sum", "countdown:min_numbers=3", "gsm8k:$DATA/gsm8k/train.jsonl"]
    worked = stage("worked", "base", ledger(0.1, 0.006), tasks=tasks, problems=2, conversations={"gym:chain_sum": 1234})
    everyday = stage("answers", "base", ledger(0.1, 0.006, sampled_tokens=5), data="toy/everyday.jsonl")
    everyday["conversations"] = {"toy/everyday.jsonl": 3}
    optimizer, lora = {"learning_rate": 1.5e-3, "kind": "adamw"}, {"rank": 32, "alpha": 64.0}
    cold = stage(
        "sft",
        "base",
        ledger(2.0, 0.12, tokens=1_310_000),
        data=["stage:worked", "stage:everyday"],
        optimizer=optimizer,
        lora=lora,
        steps=322,
    )
    grpo = stage("grpo", "cold", ledger(30.0, 1.8, sampled_tokens=9), tasks=["gym:chain_sum"], steps=40, replies=8)
    stages = {"worked": worked, "everyday": everyday, "cold": cold, "grpo": grpo}
    return {"recipe_sha256": "00", "stages": stages, "ledger": ledger(32.2, 1.932, tokens=1_310_000)}


def evaluated(*shares: float, model: str = "model", k: int = 1) -> Evaluation:
    """Of two tasks, the second all wrong."""
    return evaluation([*solved(*shares, k=k), *solved(0, 0, k=k, group=Group("mul", 2))], k=k, model=model)


def lineage_of(kind: str) -> dict[str, Any]:
    """Of a model, as its folder has it."""
    return {"stage": kind, "artifact": "model", "sha256": f"of {kind}"}


def printed(first: Evaluation, second: Evaluation | None = None, command: str = "millet eval m") -> dict[str, Any]:
    origin = Origin(command, "2030-01-02 03:04 UTC", "a machine", {"millet": "0.1.0"})
    found: dict[str, Any] = json.loads(json.dumps(Report.of(origin, first, second).to_dict()))
    return found


def talked(base: str = "base", **settings: Any) -> dict[str, Any]:
    talk = Talk("model", base, ["Why?"] * 100, [], dict.fromkeys(TALK, Estimate(0.1, 0.05, 0.15)))
    found: dict[str, Any] = json.loads(talk_as_json(talk, Settings(**settings)))
    return found


def card_of(tmp_path: Path, text: str = CARD, **given: Any) -> str:
    (tmp_path / "card.toml").write_text(text, "utf-8")
    evaluations = given.pop("evaluations", [printed(evaluated(1, 0))])
    return model_card(
        "toy-135", "base", read_card(tmp_path / "card.toml"), given.get("lineage", lineage()), evaluations
    )


@pytest.mark.parametrize("text", [CARD, CARD + 'hub = "org/gsm8k"\n'], ids=["once", "used-twice"])
def test_the_head_is_as_hugging_face_reads_it(tmp_path: Path, text: str) -> None:
    yaml = pytest.importorskip("yaml")
    _, head, _ = card_of(tmp_path, text).split("---\n", 2)
    assert yaml.safe_load(head) == {
        "license": "apache-2.0",
        "base_model": "Org/Base-1M",
        "base_model_relation": "adapter",
        "library_name": "peft",
        "pipeline_tag": "text-generation",
        "language": ["en", "no"],
        "datasets": ["org/gsm8k"],
    }


def test_stages_data_and_cost_are_those_of_the_lineage(tmp_path: Path) -> None:
    text = card_of(tmp_path)
    assert text == card_of(tmp_path)
    for line in (
        "1. **worked**: solutions worked by a program: 1,234 conversations, gym:chain_sum 1,234 "
        "(seed 7, problems of each task 2).",
        "2. **everyday**: answers of base behind thoughts that were written to their questions: 3 conversations, "
        "toy/everyday.jsonl 3 (seed 7).",
        "3. **cold**: supervised fine-tuning of base on worked, everyday: 322 steps, 1,310,000 tokens "
        "(seed 7, learning rate 0.0015, rank 32, alpha 64).",
        "4. **grpo**: reinforcement learning of cold with GRPO on gym:chain_sum: 40 steps, 0 tokens "
        "(seed 7, replies to each question 8).",
        "| Gym | Apache-2.0 | problems | worked, grpo | https://example.org/gym |",
        "| GSM8K | MIT | more problems | worked | https://example.org/gsm8k |",
        "| cold | 2.00 | 4.00 | 1,310,000 | 0 | 12.00 cents |",
        "| grpo | 30.00 | 60.00 | 0 | 9 | $1.80 |",
        "| **all** | 32.20 | 64.40 | 1,310,000 | 0 | $1.93 |",
        "- It can be wrong.",
        "millet train recipes/toy-135.toml",
    ):
        assert line in text.splitlines(), line
    assert "It reads `$DATA/gsm8k/train.jsonl`." in text
    assert "GPU hours" not in text


def test_hours_of_a_gpu_are_told_where_there_were_any(tmp_path: Path) -> None:
    found = lineage()
    found["stages"]["grpo"]["ledger"]["gpu_seconds"] = 5400.0
    assert "| grpo | 30.00 | 60.00 | 1.50 | 0 | 9 | $1.80 |" in card_of(tmp_path, lineage=found).splitlines()


def test_scores_stand_beside_the_bases(tmp_path: Path) -> None:
    found = printed(evaluated(0, 0, model="base"), evaluated(1, 0), "millet eval runs/m/4-grpo/model --compare base")
    lines = card_of(tmp_path, evaluations=[found]).splitlines()
    assert "| task | base, pass@1 | toy-135, pass@1 | difference in points |" in lines
    (add,) = [line for line in lines if line.startswith("| add |")]
    figures = found["models"][1]["tasks"][0]["figures"]["pass@1"]
    low, high = (f"{100 * figures[end]:.1f}" for end in ("low", "high"))
    assert f"| 50.0% ({low}–{high}) | +50.0 (" in add
    assert any(line.startswith("| mul, level 2 | 0.0% (0.0–") for line in lines)
    (mean,) = [line for line in lines if line.startswith("| **mean** |")]
    assert "| 25.0% (" in mean


def test_a_stage_before_and_a_majority_have_their_names(tmp_path: Path) -> None:
    before, after = evaluated(0.5, 0, k=4, model="3-cold"), evaluated(1, 0.5, k=4)
    before.lineage = lineage_of("sft")
    text = card_of(tmp_path, evaluations=[printed(before, after)])
    heads = "| task | after cold, pass@1 | after cold, majority@4 | toy-135, pass@1 | toy-135, majority@4 | difference"
    assert heads in text
    assert "4 replies to each" in text


def test_another_run_is_not_taken_for_a_stage_of_this_one(tmp_path: Path) -> None:
    """Its stage may have the same name; and where it lies on this machine is not told."""
    before, after = evaluated(0, 0, model="/home/me/runs/other/3-cold/model"), evaluated(1, 0)
    for lineage in (None, ["of somebody else"], lineage_of("sft") | {"sha256": "another"}):
        before.lineage = lineage
        text = card_of(tmp_path, evaluations=[printed(before, after)])
        assert "| task | other/3-cold, pass@1 | toy-135, pass@1 |" in text
        assert "/home" not in text


def test_figures_are_joined_by_task_and_not_by_place(tmp_path: Path) -> None:
    """As where what was compared with is a file, whose tasks have an order of their own."""
    add, mul = solved(0, 0), solved(1, 1, group=Group("mul", 2))
    before, after = evaluation([*mul, *add], model="base"), evaluation([*add, *mul])
    lines = card_of(tmp_path, evaluations=[printed(before, after)]).splitlines()
    for task, value in (("add", "0.0%"), ("mul, level 2", "100.0%")):
        (line,) = [line for line in lines if line.startswith(f"| {task} |")]
        assert [cell.split()[0] for cell in line.split("|")[2:5]] == [value, value, "+0.0"]


@pytest.mark.parametrize("fewer", [0, 1])
def test_two_models_that_were_asked_different_tasks_are_refused(tmp_path: Path, fewer: int) -> None:
    both = evaluated(0, 0, model="base"), evaluated(1, 0)
    both[fewer].attempts = both[fewer].attempts[:2]
    both[fewer].asked = 2
    with pytest.raises(BadRequest, match="asked two models different tasks") as no:
        card_of(tmp_path, evaluations=[printed(*both)])
    assert "\n" not in str(no.value)


def test_other_weights_than_the_files_are_told(tmp_path: Path) -> None:
    found = printed(evaluated(1, 0))
    assert "--quantize" not in card_of(tmp_path, evaluations=[found, talked()])
    found["settings"]["quantize"] = "q8"
    assert card_of(tmp_path, evaluations=[found, talked(quantize="q8")]).count(", --quantize q8") == 2


def test_the_versions_of_what_makes_problems_are_told_where_they_are_known(tmp_path: Path) -> None:
    assert "PyTorch 2.13.0, Python 3.11.7 on CPUs" in card_of(tmp_path)
    found = lineage()
    found["stages"]["grpo"]["environment"]["packages"] = {"reasoning-gym": "0.1.25"}
    assert "Python 3.11.7, reasoning-gym 0.1.25 on CPUs" in card_of(tmp_path, lineage=found)


def test_talk_is_told(tmp_path: Path) -> None:
    text = card_of(tmp_path, evaluations=[talked()])
    assert "| rise | +10.0% (+5.0% to +15.0%) |" in text.splitlines()
    assert "on 100 everyday questions" in text
    with pytest.raises(BadRequest, match="compared with another; give --compare base"):
        card_of(tmp_path, evaluations=[talked("another")])


def test_data_without_a_licence_is_refused(tmp_path: Path) -> None:
    found = lineage()
    found["stages"]["grpo"]["configuration"]["tasks"] += ["toy/digits.py:DigitSum", "jsonl:mine.jsonl"]
    assert datasets_of(found) == {
        "reasoning-gym": ["worked", "grpo"],
        "gsm8k": ["worked"],
        "toy/everyday.jsonl": ["everyday"],
        "toy/digits.py": ["grpo"],
        "mine.jsonl": ["grpo"],
    }
    with pytest.raises(
        BadRequest, match=r"used toy/digits\.py, mine\.jsonl, which .*dataset = \"toy/digits\.py\""
    ) as no:
        card_of(tmp_path, lineage=found)
    assert "\n" not in str(no.value)


def test_an_interrupted_evaluation_is_refused(tmp_path: Path) -> None:
    half = evaluation(solved(1, 0), asked=9)
    with pytest.raises(BadRequest, match="was interrupted"):
        card_of(tmp_path, evaluations=[printed(half)])


@pytest.mark.parametrize(
    ("before", "after", "says"),
    [
        ("limits", "limit", "unknown key 'limit'; did you mean limits"),
        ('hub = "org', 'hob = "org', "unknown key 'hob'"),
        ('licence = "MIT"\n', "", "lacks 'licence'"),
        ('title = "A toy"', "title = 3", "must be text"),
        ('title = "A toy"', "title = ", "is not TOML"),
    ],
)
def test_a_mistake_in_the_card_is_named(before: str, after: str, says: str, tmp_path: Path) -> None:
    assert before in CARD
    with pytest.raises(BadRequest, match=says) as caught:
        card_of(tmp_path, CARD.replace(before, after, 1))
    assert "card.toml" in str(caught.value)


@pytest.mark.parametrize(("kind", "settings", "line"), [
    ("magpie", {}, "**said**: questions that base asks itself, and its answers: 5 conversations, said 5 (seed 7)."),
    ("answers", {"data": "toy/everyday.jsonl", "thoughts": "off"},
     "**said**: answers of base to questions that were written: 5 conversations, said 5 (seed 7)."),
    ("answers", {"data": "toy/everyday.jsonl", "thoughts": "both"},
     "**said**: answers of base alone, and behind thoughts that were written to their questions: 5 conversations, "
     "said 5 (seed 7)."),
])  # fmt: skip
def test_what_the_base_says_already(tmp_path: Path, kind: str, settings: dict[str, Any], line: str) -> None:
    whole = lineage()
    said = stage(kind, "base", ledger(0.1, 0.006), **settings)
    whole["stages"] = {"said": {**said, "conversations": {"said": 5}}, **whole["stages"]}
    assert line in card_of(tmp_path, lineage=whole)


def test_every_kind_of_stage_can_be_told() -> None:
    assert set(METHODS) == set(recipe.KINDS)


def test_the_card_of_our_model_is_sound_and_names_what_its_recipe_uses() -> None:
    folder = Path(__file__).parents[2] / "recipes"
    card = read_card(folder / "millet-135m" / "card.toml")
    stages = recipe.read_recipe(folder / "millet-135m.toml").stages
    used = datasets_of({"stages": {each.name: {"configuration": recipe.configuration(each)} for each in stages}})
    assert set(used) <= {each.dataset for each in card.data}


def test_the_recipe_of_our_model_is_the_one_that_made_what_ships() -> None:
    root = Path(__file__).parents[2]
    shipped = root / "millet" / "models" / "adapters" / "millet-135m" / "lineage.json"
    made_by = json.loads(shipped.read_text(encoding="utf-8"))["recipe_sha256"]
    path = root / "recipes" / "millet-135m.toml"
    assert made_by == file_hash(path), f"run `millet train {path}` again and ship what it makes"
