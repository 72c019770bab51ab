"""The mean of adapters: of what each has added to their start, a share; and nothing that has no mean."""

from __future__ import annotations

import json
import shutil
from itertools import product
from pathlib import Path

import pytest
import torch
from torch import Tensor

import millet
from millet.errors import BadRequest
from millet.models.adapter import Adapter
from millet.train.average import AverageStage
from millet.train.chain import train
from millet.train.recipe import read_recipe
from tests.train.toy_recipe import STAGE, Heard, one_thread, write_toy  # noqa: F401 - a fixture

pytestmark = pytest.mark.usefixtures("one_thread")


def stage(name: str, rate: str = "3e-2", base: str = "", rank: int = 4, alpha: float = 8) -> str:
    """An adapter of the toy, or one that goes on from `base`."""
    names = f'name = "{name}"\n' + (f'base = "{base}"\n' if base else "")
    return STAGE.replace("data =", names + "data =").replace("3e-3", rate) + f"[stage.lora]\n{rank=}\n{alpha=}\n"


def average(*models: str, share: float = 0.5, base: str = "start") -> str:
    return f'\n[[stage]]\nkind = "average"\nbase = "{base}"\nmodels = {json.dumps(models)}\nshare = {share}\n'


def added(folder: Path) -> dict[str, tuple[Tensor, Tensor]]:
    """A and scale B of each module."""
    modules = Adapter.read(folder / "model").modules
    return {name: (each.a_RD, each.b_FR * each.scale) for name, each in modules.items()}


def test_a_share_of_what_each_has_added(tmp_path: Path) -> None:
    """Also where they were trained at other scales; and a stage behind it goes on from it."""
    ways = stage("start") + stage("one", "1e-2", "start") + stage("other", "2e-2", "start", alpha=2)
    recipe = read_recipe(write_toy(tmp_path, 1, ways + average("one", "other", share=0.7) + stage("more")))
    heard = Heard()
    lineage = train(recipe, tmp_path / "out", heard)["stages"]["average"]
    assert lineage["parents"].keys() == {"start", "one", "other"}
    start, one, other, mean = (added(tmp_path / "out" / name) for name in ("1-start", "2-one", "3-other", "4-average"))
    assert mean.keys() == start.keys()
    for name, i in product(mean, (0, 1)):
        expected = start[name][i] + 0.7 * (one[name][i] - start[name][i] + other[name][i] - start[name][i])
        torch.testing.assert_close(mean[name][i], expected, rtol=0, atol=1e-6)
        assert not torch.equal(one[name][i], other[name][i])
    told = [line for line in heard.lines if line.startswith("average: ")]
    assert told
    assert "one and other 0." in told[0], "they learned the same, so there is something that they agree on"
    template = millet.load(tmp_path / "out" / "4-average" / "model").template
    assert template is not None
    assert template.source == millet.load(tmp_path / "out" / "1-start" / "model").template.source
    report = (tmp_path / "out" / "4-average" / "report.html").read_text()
    assert "done at once, from start, one, other." in report
    assert "Curves" not in report
    assert json.loads((tmp_path / "out" / "5-more" / "lineage.json").read_text())["parents"].keys() == {"average"}
    again = Heard()
    assert train(recipe, tmp_path / "out", again)["stages"]["average"]["sha256"] == lineage["sha256"]
    assert again.begun == []


def test_a_share_of_the_way_of_one(tmp_path: Path) -> None:
    ways = stage("start") + stage("one", "1e-2", "start") + average("one", share=0.25)
    heard = Heard()
    train(read_recipe(write_toy(tmp_path, 1, ways)), tmp_path / "out", heard)
    start, one, part = (added(tmp_path / "out" / name) for name in ("1-start", "2-one", "3-average"))
    for name, i in product(part, (0, 1)):
        expected = start[name][i] + 0.25 * (one[name][i] - start[name][i])
        torch.testing.assert_close(part[name][i], expected, rtol=0, atol=1e-6)
    assert not [line for line in heard.lines if "cosines" in line], "there are no two to compare"


@pytest.mark.parametrize(("stages", "says"), [
    (average("start", "all", base="all"), "1-all/model is no adapter; average models that were trained with"),
    (average("start", "wide"), "the adapter of wide has another base, other modules or ranks than that of .*start"),
    (average("start", "nobody"), "nobody"),
    (average("start", "sums"), "average needs the model of sums, which makes data and no model"),
    (average(), "name at least one, each once"),
    (average("start", "start"), "name at least one, each once"),
    (average("start", "wide", share=0), "share is 0.0; it must be above 0 and at most 1"),
])  # fmt: skip
def test_what_has_no_mean_is_one_line(tmp_path: Path, stages: str, says: str) -> None:
    worked = '\n[[stage]]\nkind = "worked"\nname = "sums"\nproblems = 1\ntasks = ["chain_sum"]\n'
    whole = STAGE.replace("data =", 'name = "all"\ndata =')
    wide = stage("wide", base=str(tmp_path / "toy"), rank=5)
    begin = whole + stage("start", base=str(tmp_path / "toy")) + wide + worked
    path = write_toy(tmp_path, 1, begin + stages)
    with pytest.raises(millet.errors.MilletError, match=says) as caught:
        train(read_recipe(path), tmp_path / "out", Heard())
    assert "\n" not in str(caught.value)


def test_adapters_of_two_models_have_no_mean(tmp_path: Path) -> None:
    """Though they have the same shapes."""
    path = write_toy(tmp_path, 1, stage("start") + stage("one", base="start") + stage("twin", base="other"))
    shutil.copytree(tmp_path / "toy", tmp_path / "other")
    path.write_text(
        path.read_text().replace('base = "other"', f'base = "{tmp_path / "other"}"') + average("one", "twin")
    )
    with pytest.raises(BadRequest, match="the adapter of twin has another base"):
        train(read_recipe(path), tmp_path / "out", Heard())


def test_it_is_found_in_a_recipe_by_its_kind(tmp_path: Path) -> None:
    found = read_recipe(write_toy(tmp_path, 1, stage("start") + average("start", "start-2"))).stages[1]
    assert found == AverageStage(name="average", base="start", models=("start", "start-2"), share=0.5)
    with pytest.raises(BadRequest, match="unknown key 'weights'"):
        read_recipe(write_toy(tmp_path, 1, stage("start") + average("start", "start-2") + "weights = [1]\n"))
