"""A model of the catalog that is an adapter for another one: found, pulled, loaded, shown, and trained further."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from millet.cli import main
from millet.cli.doctor import prospects
from millet.errors import BadRequest
from millet.kernels.cpu import CPU, Memory
from millet.kernels.roof import Roof
from millet.models import fetch, hub
from millet.models.adapter import Adapter
from millet.models.catalog import CatalogEntry, catalog
from millet.models.load import load
from millet.models.lora import LoRALinear
from millet.models.sources import Source
from millet.train.chain import train
from millet.train.lineage import tree_hash
from millet.train.lora import LoraConfig
from millet.train.recipe import read_recipe
from millet.train.trainee import Trainee
from tests.models.adapted import BASE, LORA, NAME, TEMPLATE, add_adapter, catalog_of, trained
from tests.models.files import toy, write_gguf
from tests.train.toy_recipe import Heard, conversation, one_thread  # noqa: F401 - a fixture

pytestmark = pytest.mark.usefixtures("one_thread")

IDS = [5, 9, 60, 31, 12, 44, 45, 101]


@pytest.fixture
def adapted(tmp_path: Path, seed: int) -> Iterator[Path]:
    """Both in the catalog, neither in the home; the adapter's directory."""
    model = toy("llama-tied", seed, hidden_size=64, intermediate_size=96)
    path = write_gguf(model, tmp_path / "toy.gguf", kind="Q4_1")
    directory = tmp_path / "adapters" / NAME
    with catalog_of(tmp_path, path, pytest.MonkeyPatch()):
        trained(seed).save(directory)
        (directory / "chat_template.jinja").write_text(TEMPLATE, "utf-8")
        (tmp_path / "home").rename(tmp_path / "home-of-before")
        add_adapter(tmp_path)
        yield directory


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


def millet(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main.main(list(arguments))
    assert isinstance(ended.value.code, int)
    return ended.value.code


def test_it_is_here_when_its_base_is(adapted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def told(entry: CatalogEntry, source: Source, directory: Path, progress: hub.Progress) -> None:
        progress(f"fetching {entry.name}", 1, 2)
        really(entry, source, directory, progress)

    really = fetch.fetch
    monkeypatch.setattr(fetch, "fetch", told)
    assert hub.locate(NAME) is None
    heard: list[str] = []
    assert hub.pull(NAME, lambda what, done, total: heard.append(what)) == adapted
    assert heard == [f"fetching {BASE}"]
    assert hub.pulled() == {BASE: f"file:{tmp_path}/toy.gguf"}
    assert hub.locate(NAME) == adapted
    assert hub.pull(NAME) == adapted


def test_loading_pulls_the_base_and_takes_what_is_its_own(adapted: Path) -> None:
    model = load(NAME)
    assert (model.name, model.path) == (NAME, adapted)
    assert model.template is not None
    assert model.template.source == TEMPLATE
    assert model.sampling_defaults == {"temperature": 0.6}, "top_p is the base's recommendation"
    assert load(BASE).sampling_defaults == {"temperature": 0.2, "top_p": 0.9}
    assert load(adapted).sampling_defaults == {"temperature": 0.2, "top_p": 0.9}
    with torch.no_grad():
        ours, base = (load(name).logprobs([IDS])[0] for name in (NAME, BASE))
    assert (ours - base).abs().max() > 0.01


@pytest.mark.usefixtures("with_native")
def test_it_lies_beside_quantised_weights_and_is_trained_further(adapted: Path, tmp_path: Path, seed: int) -> None:
    model = load(NAME)
    assert model.quantised
    assert any(isinstance(module, LoRALinear) for module in model.network.modules())
    with torch.no_grad():
        (ours,) = model.logprobs([IDS])
        trainee = Trainee(load(NAME), LORA)
        assert torch.equal(trainee.logprobs([IDS])[0], ours), "it begins where the adapter ended"
        assert torch.equal(trained(seed).logprobs([IDS])[0], ours)
        rescaled = Trainee(load(NAME), LoraConfig(rank=4, alpha=2.0))
        assert torch.equal(rescaled.logprobs([IDS])[0], ours), "also where another alpha is asked for"
    with pytest.raises(BadRequest, match="of rank 4, and 21 of rank 8 are asked for; give the same rank"):
        Trainee(load(NAME), LoraConfig(rank=8))
    trainee.save(tmp_path / "further")
    assert Adapter.read(tmp_path / "further").base == BASE


def test_over_plain_weights_it_is_summed_and_goes_on_from_there(adapted: Path) -> None:
    model = load(NAME, dtype="float32")
    with torch.no_grad():
        (summed,) = model.logprobs([IDS])
        (apart,) = Trainee(model, LORA).logprobs([IDS])
    torch.testing.assert_close(apart, summed, rtol=0, atol=1e-4)


RECIPE = f"""
[model]
base = "{NAME}"
device = "cpu"
[[stage]]
kind = "sft"
data = ["sums.jsonl"]
micro_tokens = 256
[stage.lora]
rank = 4
alpha = 8
"""


def test_a_recipe_goes_on_with_it(adapted: Path, tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text(RECIPE)
    (tmp_path / "sums.jsonl").write_text(json.dumps(conversation(3, 4)) + "\n")
    train(read_recipe(tmp_path / "recipe.toml"), tmp_path / "out", Heard())
    stage = tmp_path / "out" / "1-sft"
    assert json.loads((stage / "lineage.json").read_text())["parents"] == {NAME: tree_hash(adapted)}
    before, after = Adapter.read(adapted), Adapter.read(stage / "model")
    assert after.base == BASE
    for module, factors in before.modules.items():
        change = after.modules[module].b_FR - factors.b_FR
        assert 0 < change.abs().max() < 1e-3 < factors.b_FR.abs().max()


def test_the_list_has_the_size_of_both(adapted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def row() -> dict[str, object]:
        assert millet("models", "--json") == 0
        rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
        assert rows[BASE]["base"] is None
        found: dict[str, object] = rows[NAME]
        return found

    before = row()
    assert (before["present"], before["path"], before["size"], before["base"]) == (False, None, None, BASE)
    assert before["source"] == f"file:{tmp_path}/toy.gguf"
    assert millet("pull", NAME) == 0
    told = capsys.readouterr()
    assert told.out == f"{adapted}\n"
    assert f"{NAME} is here now" in told.err
    after = row()
    both = (tmp_path / "toy.gguf").stat().st_size + size_of(adapted)
    assert (after["present"], after["path"], after["size"]) == (True, str(adapted), both)
    millet("models")
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith(NAME)]
    assert line.endswith(f"Apache-2.0  {BASE} and an adapter")


def test_a_size_that_the_catalog_knows_is_told_before_it_is_here(
    adapted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "models.toml"
    path.write_text(path.read_text().replace('title = "A toy"\n', 'title = "A toy"\nsize = 1000\n'))
    catalog.cache_clear()
    millet("models", "--json")
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows[NAME]["size"] == 1000 + size_of(adapted)


def test_the_doctor_counts_its_factors(adapted: Path) -> None:
    roof = Roof(read=10.0, fp32=100.0, bf16=None, int8=100.0, dispatch=1e-6, device="cpu", threads=1)
    place = CPU("x", "x86_64", ("avx2",), 2, 2), roof, Memory(10**10, 10**10)
    before = prospects(NAME, *place)
    assert (before["here"], before["exact"], before["parameters"]) == (False, False, 110)
    hub.pull(NAME)
    base, ours = (prospects(name, *place) for name in (BASE, NAME))
    assert (ours["here"], ours["exact"]) == (True, True)
    assert ours["parameters"] == base["parameters"]
    factors = Adapter.read(adapted).modules.values()
    added = sum(2 * (each.a_RD.numel() + each.b_FR.numel()) for each in factors)
    quantised = base["weights"] < 4 * base["parameters"]
    assert ours["weights"] - base["weights"] == pytest.approx(added if quantised else 0, abs=1)
