"""What docs/teach.md says about training is true: its recipe runs, and every key is told with its default."""

import json
import re
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import pytest

from millet.train.answers import AnswersStage
from millet.train.data import Renderer
from millet.train.distill import DistillStage
from millet.train.distill_logits import DistillLogitsStage
from millet.train.distill_on_policy import DistillOnPolicyStage
from millet.train.grpo import GrpoStage
from millet.train.ledger import Prices
from millet.train.loop import LoopSettings
from millet.train.lora import LoraConfig
from millet.train.optimizer import OptimizerSettings
from millet.train.policy_loss import Objective
from millet.train.recipe import ModelSettings, read_recipe
from millet.train.reject import RejectStage
from millet.train.schedule import Schedule
from millet.train.sft import SftStage
from millet.train.stage import Stage
from millet.train.worked import WorkedStage
from tests.reasoning.toys import toy_model

DOCS = (Path(__file__).parents[2] / "docs" / "teach.md").read_text()
TRAINING = DOCS.partition("\n## Training\n")[2].partition("\n## ")[0]
COMMON = {field.name for cls in (Stage, LoopSettings) for field in fields(cls)} | {"lora", "checkpointing", "exact"}


def table(head: str) -> dict[str, str]:
    """Key -> default of the table whose first line has `head`."""
    lines = TRAINING.partition(f"| {head}")[2].partition("\n\n")[0].splitlines()[2:]
    rows: dict[str, str] = {}
    for line in lines:
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        keys = re.findall(r"`(\w+)`", cells[0])
        defaults = cells[-1].split(", ") if len(keys) > 1 else [cells[-1].strip("| ")]
        rows |= dict(zip(keys, defaults, strict=True))
    return rows


@pytest.mark.parametrize(
    ("head", "cls"),
    [
        ("`[model]`", ModelSettings),
        ("`[prices]`", Prices),
        ("`[[stage]]` of kind `sft`", SftStage),
        ("`[[stage]]` of kind `grpo`", GrpoStage),
        ("`[stage.objective]`", Objective),
        ("`[[stage]]` of kind `reject`", RejectStage),
        ("`[[stage]]` of kind `distill`", DistillStage),
        ("`[[stage]]` of kind `distill-logits`", DistillLogitsStage),
        ("`[[stage]]` of kind `distill-on-policy`", DistillOnPolicyStage),
        ("`[[stage]]` of kind `answers`", AnswersStage),
        ("`[[stage]]` of kind `worked`", WorkedStage),
        ("`[stage.optimizer]`", OptimizerSettings),
        ("`[stage.schedule]`", Schedule),
        ("`[stage.lora]`", LoraConfig),
    ],
)
def test_every_key_is_told_with_its_default(head: str, cls: Any) -> None:
    told = table(head)
    known = {
        field.name: field.default for field in fields(cls) if not issubclass(cls, Stage) or field.name not in COMMON
    }
    known.pop("objective", None)  # a table of its own
    assert told.keys() == known.keys()
    for name, default in known.items():
        if default is MISSING:
            assert told[name] == ""
        elif isinstance(default, (bool, str)):
            assert told[name] == str(default).lower() or told[name] == default
        elif isinstance(default, tuple):
            assert told[name] == str(list(default))
        elif default is not None:
            assert float(told[name]) == default


def test_keys_of_every_stage_are_told() -> None:
    told = {"kind", "name", "base", "checkpoint_every", "checkpointing", "exact"}
    assert set(table("`[[stage]]`, of any kind")) == told


def test_the_recipe_is_one(tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text(re.findall(r"^```toml\n(.*?)^```", TRAINING, re.DOTALL | re.MULTILINE)[0])
    (stage,) = read_recipe(tmp_path / "recipe.toml").stages
    assert isinstance(stage, SftStage)
    assert stage.lora == LoraConfig(rank=16)


def test_the_recipe_of_reinforcement_is_one(tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text(re.findall(r"^```toml\n(.*?)^```", TRAINING, re.DOTALL | re.MULTILINE)[1])
    stages = read_recipe(tmp_path / "recipe.toml").stages
    assert [type(stage) for stage in stages] == [GrpoStage, RejectStage, SftStage]


def test_the_recipe_of_distillation_is_one(tmp_path: Path) -> None:
    recipes = re.findall(r"^```toml\n(.*?)^```", TRAINING, re.DOTALL | re.MULTILINE)
    (tmp_path / "recipe.toml").write_text(next(recipe for recipe in recipes if '"distill"' in recipe))
    stages = read_recipe(tmp_path / "recipe.toml").stages
    assert [type(stage) for stage in stages] == [DistillStage, SftStage, DistillLogitsStage, DistillOnPolicyStage]


def test_the_conversation_is_one() -> None:
    row = json.loads(re.findall(r"^```json\n(.*?)^```", TRAINING, re.DOTALL | re.MULTILINE)[0])
    assert len(Renderer(toy_model(0)).examples(row["messages"])) == 1
