import json
from pathlib import Path

import pytest

from millet.errors import BadRequest
from millet.train.ledger import Prices
from millet.train.optimizer import OptimizerSettings
from millet.train.recipe import configuration, read_recipe
from millet.train.sft import SftStage

HEAD = '[model]\nbase = "m"\n'
SFT = '[[stage]]\nkind = "sft"\ndata = ["x.jsonl"]\n'


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "recipe.toml"
    path.write_text(text)
    return path


def test_a_recipe_is_dataclasses(tmp_path: Path) -> None:
    text = f"""
        seed = 5
        {HEAD}
        [prices]
        currency = "EUR"
        gpu_hour = 2
        {SFT}
        epochs = 3
        [stage.optimizer]
        kind = "muon"
        learning_rate = 1e-3
        {SFT}
        base = "m"
    """
    recipe = read_recipe(write(tmp_path, text))
    assert (recipe.seed, recipe.model.base, recipe.model.device) == (5, "m", None)
    assert recipe.prices == Prices(currency="EUR", gpu_hour=2.0)
    first, second = recipe.stages
    optimizer = OptimizerSettings(kind="muon", learning_rate=1e-3)
    assert first == SftStage(name="sft", data=("x.jsonl",), epochs=3, optimizer=optimizer)
    assert second == SftStage(name="sft-2", data=("x.jsonl",), base="m")


def test_a_configuration_is_plain_data_with_every_default(tmp_path: Path) -> None:
    plain = configuration(read_recipe(write(tmp_path, HEAD + SFT)).stages[0])
    assert plain["kind"] == "sft"
    assert plain["data"] == ["x.jsonl"]
    assert plain["schedule"] == {"kind": "cosine", "warmup": 0.05, "decay": 0.2, "floor": 0.0}
    assert json.loads(json.dumps(plain)) == plain


def test_a_key_that_an_earlier_version_did_not_have_changes_nothing_by_default(tmp_path: Path) -> None:
    whole = configuration(read_recipe(write(tmp_path, HEAD + SFT)).stages[0])
    before = {key: value for key, value in whole.items() if key != "following"}
    assert configuration(read_recipe(write(tmp_path, HEAD + SFT)).stages[0], before) == before
    other = configuration(read_recipe(write(tmp_path, HEAD + SFT + "following = 0.5")).stages[0], before)
    assert other == before | {"following": 0.5}
    grpo = read_recipe(write(tmp_path, HEAD + '[[stage]]\nkind = "grpo"\ntasks = ["chain_sum"]\n')).stages[0]
    assert "levels" not in configuration(grpo, {"tasks": []}), "a list that is empty by default"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed = ", "is not TOML"),
        (HEAD, "there is no stage; add"),
        (SFT, r"there is no \[model\]"),
        ("[model]\n" + SFT, r"\[model\] lacks 'base'"),
        ("sead = 1\n" + HEAD + SFT, "unknown key 'sead'; did you mean seed"),
        (HEAD + "[prises]\n" + SFT, "did you mean prices"),
        (HEAD + SFT + "epoch = 3", r"stage 1 \(sft\) has the unknown key 'epoch'; did you mean epochs"),
        (HEAD + SFT + "[stage.optimizer]\nlerning_rate = 1.0", "'lerning_rate'; did you mean learning_rate"),
        (HEAD + SFT + "[stage.optimizer]\nkind = 'adam'", "optimizer kind is 'adam'; did you mean adamw"),
        (HEAD + SFT.replace("sft", "stf"), "stage 1 has the kind 'stf'; did you mean sft"),
        (HEAD + "[[stage]]\nkind = 'sft'", r"stage 1 \(sft\) lacks 'data'"),
        (HEAD + SFT + "epochs = 1.5", "epochs is 1.5; it must be a whole number"),
        (HEAD + SFT + "epochs = true", "epochs is True; it must be a whole number"),
        (HEAD + SFT + "epochs = 0", "epochs is 0; it must be at least 1"),
        (HEAD + SFT + "drop_longer = 1", "drop_longer is 1; it must be true or false"),
        (HEAD + SFT + "following = 1.0", "following is 1.0; it must be from 0 to below 1"),
        (HEAD + SFT.replace('["x.jsonl"]', '"x.jsonl"'), "data is 'x.jsonl'; it must be a list"),
        (HEAD + SFT.replace('["x.jsonl"]', "[1]"), "data is 1; it must be text"),
        (HEAD + SFT + "optimizer = 3", "optimizer is 3; it must be a table"),
        (HEAD + SFT + "name = '../up'", "the stage's name '../up' must have only"),
        (HEAD + SFT + "name = 'a'\n" + SFT + "name = 'a'", "two stages are called 'a'"),
        (HEAD + SFT + "batch_tokens = 1000", "multiple"),
        (HEAD + SFT + "[stage.schedule]\nwarmup = 7", "schedule.warmup is 7"),
        (HEAD + "[[stage]]", "kind None"),
        ("stage = 3\n" + HEAD, "there is no stage"),
        ("model = 'x'\n" + SFT, r"\[model\] is 'x'; it must be a table"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(BadRequest, match=message) as caught:
        read_recipe(write(tmp_path, text))
    assert str(tmp_path / "recipe.toml") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_recipe_that_is_not_there_or_no_text(tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match="there is no recipe"):
        read_recipe(tmp_path / "other.toml")
    with pytest.raises(BadRequest, match="cannot be read"):
        read_recipe(tmp_path)
    (tmp_path / "recipe.toml").write_bytes(b"\xff")
    with pytest.raises(BadRequest, match="is not TOML"):
        read_recipe(tmp_path / "recipe.toml")
