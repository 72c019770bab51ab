"""`python -m scripts.ship`: from a run to a model of the catalog, at toy scale."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from millet.cli.talk import talk_as_json
from millet.errors import BadRequest, MilletError
from millet.evaluate.bootstrap import Estimate
from millet.evaluate.provenance import lineage_of, origin
from millet.evaluate.report import Report
from millet.evaluate.results import Evaluation, Settings
from millet.evaluate.talk import Talk
from millet.models.adapter import CONFIG, FACTORS, Adapter, Factors
from millet.models.catalog import catalog
from millet.models.load import load
from millet.models.model import Model
from millet.train.card import TALK
from millet.train.chain import train
from millet.train.lora import LoraConfig
from millet.train.recipe import read_recipe
from millet.train.trainee import Trainee
from scripts import ship as module
from scripts.restore import restore
from scripts.ship import in_fp16, ship, without_places
from tests.evaluate.toys import evaluation, solved
from tests.models.adapted import BASE, NAME, add_adapter, catalog_of
from tests.models.files import toy, write_gguf
from tests.reasoning.toys import toy_model
from tests.train.toy_recipe import Heard, conversation, one_thread  # noqa: F401 - a fixture

pytestmark = pytest.mark.usefixtures("one_thread")

ROOT = Path(__file__).parents[2]
RECIPE = """
seed = 3
[model]
base = "{base}"
device = "cpu"
[[stage]]
kind = "worked"
tasks = ["chain_sum"]
problems = 3
[[stage]]
kind = "sft"
base = "{base}"
data = ["stage:worked", "{data}"]
batch_tokens = 512
micro_tokens = 512
[stage.optimizer]
learning_rate = 3e-2
[stage.lora]
rank = 4
alpha = 8
"""
CARD = """
title = "A toy"
description = "It is small."
licence = "MIT"
base_model = "org/toy"
languages = ["en"]
limits = ["It is a toy."]
[[data]]
dataset = "reasoning-gym"
name = "Gym"
licence = "Apache-2.0"
source = "https://example.org/gym"
use = "problems"
[[data]]
dataset = "sums.jsonl"
name = "Sums"
licence = "MIT"
source = "this project"
use = "sums"
"""
IDS = [5, 9, 60, 31, 12, 44, 45, 101]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a catalog of one base, and a run that trained an adapter for it on a file of this machine."""
    folder = tmp_path_factory.mktemp("ship")
    toy_model(7).save(folder / "base")
    rows = [conversation(a, b) for a in range(6) for b in range(6)]
    (folder / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "recipe.toml").write_text(RECIPE.format(base=BASE, data=folder / "sums.jsonl"))
    (folder / "card.toml").write_text(CARD)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with catalog_of(folder, folder / "base", pytest.MonkeyPatch()):
        train(read_recipe(folder / "recipe.toml"), folder / "run", Heard())
        (folder / "eval.json").write_text(json.dumps(evaluated(load(folder / "run/2-sft/model"))))
        yield folder
    torch.set_num_threads(threads)


def evaluated(model: Model, beside: Model | None = None, partial: bool = False) -> dict[str, Any]:
    def of(model: Model) -> Evaluation:
        found = evaluation(solved(1, 0), model=model.name, asked=3 if partial else None)
        found.lineage = lineage_of(model)
        return found

    both = [of(each) for each in (beside, model) if each is not None]
    return Report.of(origin("millet eval model", model), *both).to_dict()


def talked(model: Model) -> dict[str, Any]:
    talk = Talk(model.name, BASE, ["Why?"], [], {name: Estimate(0.1, 0.05, 0.15) for name in TALK}, lineage_of(model))
    found: dict[str, Any] = json.loads(talk_as_json(talk, Settings()))
    return found


def shipped(place: Path, to: Path, **given: Any) -> str:
    paths = {"run": place / "run", "card": place / "card.toml", "evaluations": [place / "eval.json"]}
    return ship(to=to, **(paths | given))


def test_what_is_shipped_is_what_was_trained(place: Path, tmp_path: Path) -> None:
    made = place / "run/2-sft/model"
    said = shipped(place, tmp_path / "toy")
    assert said == f"{tmp_path / 'toy'}: 0.0 MB"
    names = {path.name for path in (tmp_path / "toy").iterdir()}
    assert names == {path.name for path in made.iterdir()} | {"README.md"}
    for name in names - {CONFIG, FACTORS, "lineage.json", "README.md"}:
        assert (tmp_path / "toy" / name).read_bytes() == (made / name).read_bytes()
    tensors = load_file(tmp_path / "toy" / FACTORS)
    assert tensors.keys() == load_file(made / FACTORS).keys()
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float16}
    with torch.no_grad():
        ours, theirs = (load(path).logprobs([IDS])[0] for path in (tmp_path / "toy", made))
        base = load(BASE).logprobs([IDS])[0]
    torch.testing.assert_close(ours, theirs, rtol=0, atol=5e-3)
    assert (ours - base).abs().max() > 0.05


def test_nothing_of_this_machine_is_told(place: Path, tmp_path: Path) -> None:
    shipped(place, tmp_path / "toy")
    for name in ("lineage.json", "README.md"):
        text = (tmp_path / "toy" / name).read_text()
        assert "sums.jsonl" in text
        assert str(place) not in text
    lineage = json.loads((tmp_path / "toy" / "lineage.json").read_text())
    whole = json.loads((place / "run" / "lineage.json").read_text())
    assert lineage["recipe_sha256"] == whole["recipe_sha256"]
    assert lineage["ledger"] == whole["ledger"]
    assert lineage["stages"]["worked"]["conversations"] == {"gym:chain_sum": 3}
    assert lineage["stages"]["sft"]["steps"] > 1
    assert list(lineage["stages"]["sft"]["data"]) == ["stage:worked", "sums.jsonl"]


def test_the_same_run_ships_as_the_same_bytes_also_over_an_older_one(place: Path, tmp_path: Path) -> None:
    shipped(place, tmp_path / "one/toy")
    shipped(place, tmp_path / "two/toy")
    (tmp_path / "two/toy/README.md").write_text("older")
    shipped(place, tmp_path / "two/toy")
    for path in (tmp_path / "one/toy").iterdir():
        assert path.read_bytes() == (tmp_path / "two/toy" / path.name).read_bytes()


def test_the_catalog_takes_it(place: Path) -> None:
    before = (place / "models.toml").read_text()
    shipped(place, place / "adapters" / NAME)
    add_adapter(place)
    try:
        model = load(NAME)
        assert model.path == place / "adapters" / NAME
        assert lineage_of(model)["stages"].keys() == {"worked", "sft"}
        again = place / "again.json"
        again.write_text(json.dumps(evaluated(model)))  # also figures of what was shipped are of this model
        shipped(place, place / "adapters" / NAME, evaluations=[again])
    finally:
        (place / "models.toml").write_text(before)
        catalog.cache_clear()


def test_a_run_whose_folder_is_gone_goes_on_from_what_shipped(place: Path, tmp_path: Path) -> None:
    shipped(place, tmp_path / "toy")
    said = restore(tmp_path / "toy", tmp_path / "run")
    assert said == f"{tmp_path / 'run'}: sft; `millet train` goes on from sft"
    _, worked, sft = RECIPE.split("[[stage]]")
    again = worked.replace("problems", 'name = "again"\nproblems')
    more = sft.replace('base = "{base}"\n', 'name = "more"\n')
    recipe = tmp_path / "recipe.toml"
    longer = "[[stage]]".join((RECIPE, again, more))
    recipe.write_text(longer.format(base=BASE, data=place / "sums.jsonl"))
    heard = Heard()
    whole = train(read_recipe(recipe), tmp_path / "run", heard)
    assert [name for name, _, _ in heard.begun] == ["worked", "again", "more"], "what is read is made again"
    before = json.loads((place / "run" / "lineage.json").read_text())["stages"]
    for part in ("sha256", "ledger", "data", "parents", "configuration_sha256"):
        assert whole["stages"]["sft"][part] == without_places(before["sft"])[part]
    assert whole["stages"]["worked"]["sha256"] == before["worked"]["sha256"]
    (tmp_path / "eval.json").write_text(json.dumps(evaluated(load(tmp_path / "run/4-more/model"))))
    shipped(place, tmp_path / "again", run=tmp_path / "run", evaluations=[tmp_path / "eval.json"])
    lineage = json.loads((tmp_path / "again" / "lineage.json").read_text())
    assert lineage["stages"]["sft"]["steps"] == len((place / "run/2-sft/metrics.jsonl").read_text().splitlines())
    restore(tmp_path / "again", tmp_path / "third")
    other = more.replace("more", "third").replace("stage:worked", "stage:again")
    third = "[[stage]]".join((longer, other)).format(base=BASE, data=place / "sums.jsonl")
    recipe.write_text(third)
    heard = Heard()
    train(read_recipe(recipe), tmp_path / "third", heard)
    assert [name for name, _, _ in heard.begun] == ["again", "third"], "and nothing else"
    (tmp_path / "eval.json").write_text(json.dumps(evaluated(load(tmp_path / "third/5-third/model"))))
    shipped(place, tmp_path / "last", run=tmp_path / "third", evaluations=[tmp_path / "eval.json"])
    last = json.loads((tmp_path / "last" / "lineage.json").read_text())
    assert last["stages"]["worked"] == lineage["stages"]["worked"]
    recipe.write_text(third.replace('name = "third"', 'name = "third"\nbase = "sft"'))
    restore(tmp_path / "again", tmp_path / "fourth")
    with pytest.raises(MilletError, match="stage third starts from sft, whose model is not in"):
        train(read_recipe(recipe), tmp_path / "fourth", Heard())
    other_data = longer.format(base=BASE, data=place / "sums.jsonl").replace("problems = ", "problems = 1")
    recipe.write_text(other_data)
    restore(tmp_path / "toy", tmp_path / "fifth")
    with pytest.raises(MilletError, match="1-worked has a run whose recipe was another one"):
        train(read_recipe(recipe), tmp_path / "fifth", Heard())
    recipe.write_text(third.replace("3e-2", "2e-2"))
    with pytest.raises(MilletError, match="2-sft has a run whose recipe was another one"):
        train(read_recipe(recipe), tmp_path / "third", Heard())


def test_what_cannot_be_restored_is_refused(place: Path, tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match="has no lineage of a whole recipe"):
        restore(place / "run/2-sft/model", tmp_path / "run")
    assert not (tmp_path / "run").exists()
    shipped(place, tmp_path / "toy")
    with pytest.raises(BadRequest, match="is there already"):
        restore(tmp_path / "toy", tmp_path)


def test_peft_reads_it(place: Path, tmp_path: Path) -> None:
    peft, transformers = pytest.importorskip("peft"), pytest.importorskip("transformers")
    shipped(place, tmp_path / "toy")
    base = transformers.AutoModelForCausalLM.from_pretrained(place / "base", dtype=torch.float32)
    theirs = peft.PeftModel.from_pretrained(base, tmp_path / "toy")
    with torch.no_grad():
        logits = theirs(torch.tensor([IDS])).logits[0, :-1]
        expected = logits.log_softmax(-1)[torch.arange(len(IDS) - 1), IDS[1:]]
        torch.testing.assert_close(load(tmp_path / "toy").logprobs([IDS])[0], expected, rtol=0, atol=1e-3)


def test_what_cannot_be_shipped_is_refused_and_leaves_nothing(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(says: str, **given: Any) -> None:
        with pytest.raises(MilletError, match=says) as caught:
            shipped(place, tmp_path / "out" / "toy", **given)
        assert "\n" not in str(caught.value)
        assert not list(tmp_path.glob("out/*"))

    unnamed = tmp_path / "card.toml"
    unnamed.write_text(CARD.replace('dataset = "sums.jsonl"', 'dataset = "sum.jsonl"'))
    refused("the run has used sums.jsonl, which the card does not name", card=unnamed)
    refused("has no lineage.json of a whole recipe", run=place)
    refused("has no lineage.json of a whole recipe", run=place / "run/2-sft")
    other = tmp_path / "other.json"
    found = json.loads((place / "eval.json").read_text())
    found["models"][0]["lineage"]["sha256"] = "0" * 64
    other.write_text(json.dumps(found))
    refused("other.json is of another model", evaluations=[other])
    other.write_text(json.dumps(evaluated(load(place / "run/2-sft/model"), partial=True)))
    refused("was interrupted", evaluations=[other])
    other.write_text("[]")
    refused("is not what `millet eval --json` prints", evaluations=[other])
    refused("cannot be read", evaluations=[tmp_path / "gone.json"])
    with monkeypatch.context() as patch:
        patch.setattr(module, "LARGEST", 10_000)
        refused(r"toy would have 0\.0 MB, and 0 are allowed")


def test_figures_of_another_model_are_refused(place: Path, tmp_path: Path) -> None:
    """Whatever it is called, and also where nothing is known of its making, or of it what is known of anybody."""
    trained, base = load(place / "run/2-sft/model"), load(BASE)
    namesake = load(BASE)
    namesake.name = trained.name
    file = tmp_path / "eval.json"
    for found in (evaluated(trained, beside=base), evaluated(trained, beside=namesake), talked(trained)):
        file.write_text(json.dumps(found))
        shipped(place, tmp_path / "toy", evaluations=[file])
    others = [evaluated(base), evaluated(namesake), evaluated(base, beside=trained), talked(base), talked(namesake)]
    strange: list[Any] = [{}, {"stages": []}, ["of somebody else"], "none", {"sha256": 0}]
    for lineage in strange:
        others.append(evaluated(trained))
        others[-1]["models"][0]["lineage"] = lineage
    for found in others:
        file.write_text(json.dumps(found))
        with pytest.raises(BadRequest, match=r"eval\.json is of another model"):
            shipped(place, tmp_path / "other", evaluations=[file])
    assert not (tmp_path / "other").exists()


def test_a_chain_stands_for_the_model_that_it_ends_with(place: Path, tmp_path: Path) -> None:
    """What was trained further from the shipped one has its hash among those of its chain, too."""
    shipped(place, tmp_path / "toy")
    found, file = evaluated(load(tmp_path / "toy")), tmp_path / "eval.json"
    file.write_text(json.dumps(found))
    shipped(place, tmp_path / "again", evaluations=[file])
    stages = found["models"][0]["lineage"]["stages"]
    stages["further"] = stages["sft"] | {"sha256": "0" * 64}
    file.write_text(json.dumps(found))
    with pytest.raises(BadRequest, match="is of another model"):
        shipped(place, tmp_path / "other", evaluations=[file])


def test_conversations_are_counted_whatever_is_said_in_them(place: Path, tmp_path: Path) -> None:
    """With what Python takes for the end of a line and JSON does not."""
    data = place / "run/1-worked/data.jsonl"
    kept = data.read_text("utf-8")
    row = json.loads(kept.split("\n")[0])
    row["messages"][0]["content"] = "one\u2028two\u2029three\x85four"
    try:
        data.write_text(kept + json.dumps(row, ensure_ascii=False) + "\n", "utf-8")
        shipped(place, tmp_path / "toy")
    finally:
        data.write_text(kept, "utf-8")
    stages = json.loads((tmp_path / "toy/lineage.json").read_text("utf-8"))["stages"]
    assert stages["worked"]["conversations"] == {"gym:chain_sum": 4}


def test_an_adapter_that_the_run_has_not_made_is_refused(place: Path, tmp_path: Path) -> None:
    factors = place / "run/2-sft/model" / FACTORS
    kept = factors.read_bytes()
    tensors = load_file(factors)
    try:
        save_file({name: tensor + 1 for name, tensor in tensors.items()}, factors)
        with pytest.raises(BadRequest, match="is not what stage sft has made"):
            shipped(place, tmp_path / "toy")
    finally:
        factors.write_bytes(kept)


@pytest.mark.usefixtures("with_native")
@pytest.mark.parametrize("alpha", [8.0, 5.0])
def test_beside_a_quantised_base_the_shipped_one_has_the_bits_of_the_trained(
    tmp_path: Path, seed: int, alpha: float
) -> None:
    """Also factors that fp16 holds with few bits, and where the scale is no power of two."""
    path = write_gguf(toy("llama-tied", seed, hidden_size=64, intermediate_size=96), tmp_path / "b.gguf", kind="Q4_1")
    trainee = Trainee(load(path), LoraConfig(rank=4, alpha=alpha))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in trainee.parameters.items():
            if "lora_B" in name:
                drawn = torch.randn(parameter.shape, generator=generator)
                parameter.copy_(drawn * 10.0 ** torch.randint(-7, 0, parameter.shape, generator=generator))
        expected = trainee.logprobs([IDS])[0]
        trainee.save(tmp_path / "made")
        (tmp_path / "half").mkdir()
        save_file(in_fp16(Adapter.read(tmp_path / "made")), tmp_path / "half" / FACTORS)
        config = json.loads((tmp_path / "made" / CONFIG).read_text())
        (tmp_path / "half" / CONFIG).write_text(json.dumps(config | {"lora_alpha": 4}))
        shipped = load(tmp_path / "half")
        assert torch.equal(shipped.logprobs([IDS])[0], expected)
        further = Trainee(shipped, LoraConfig(rank=4, alpha=8.0))
        assert torch.equal(further.logprobs([IDS])[0], expected), "training goes on from there, with another scale"


def test_numbers_that_fp16_cannot_hold_are_refused() -> None:
    factors = Factors(torch.ones(1, 2), torch.full((2, 1), 4e4), 2.0)
    with pytest.raises(BadRequest, match=r"m\.lora_B\.weight has numbers that fp16 cannot hold"):
        in_fp16(Adapter("toy", {"m": factors}))


def test_places_are_known_by_their_names_alone() -> None:
    assert without_places(
        {
            "/home/me/base": ["svamp:/data/me/SVAMP.json", "svamp:$DATA/svamp/SVAMP.json", "~/tasks/mine.py:Mine"],
            "teacher": "http://10.0.0.7:8000/v1",
            "data": ["toy/everyday.jsonl", "stage:worked", "countdown:min_numbers=3"],
            "n": [1, 2.5, None, True],
        }
    ) == {
        "base": ["svamp:SVAMP.json", "svamp:$DATA/svamp/SVAMP.json", "mine.py:Mine"],
        "teacher": "a server",
        "data": ["toy/everyday.jsonl", "stage:worked", "countdown:min_numbers=3"],
        "n": [1, 2.5, None, True],
    }


def test_the_command_says_what_is_wrong_in_one_line(tmp_path: Path) -> None:
    words = ["-m", "scripts.ship", str(tmp_path), "--to", "x", "--card", "card.toml", "--evals", "eval.json"]
    done = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr == f"ship: {tmp_path} has no lineage.json of a whole recipe; run `millet train` to its end\n"
