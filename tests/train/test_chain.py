import errno
import fcntl
import json
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import millet
from millet.errors import BadRequest, MilletError, OutOfMemory, UnknownTask
from millet.kernels.cpu import Memory
from millet.models.checkpoint import SafetensorsWeights
from millet.reasoning.format import think_format
from millet.train import chain, preflight
from millet.train.chain import train
from millet.train.checkpoint import file_hash
from millet.train.lineage import tree_hash
from millet.train.metrics import read_log
from millet.train.recipe import read_recipe
from millet.train.report import moving_mean
from millet.train.signals import Stopped
from tests.train.toy_recipe import STAGE, Heard, one_thread, unthinking_model, write_toy  # noqa: F401 - a fixture

pytestmark = pytest.mark.usefixtures("one_thread")


class Interrupting(Heard):
    """Somebody stops the run at a step."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self._at = at

    def step(self, done: int, record: Mapping[str, Any]) -> None:
        super().step(done, record)
        if done == self._at:
            os.kill(os.getpid(), signal.SIGTERM)


def test_a_chain_leaves_models_with_their_lineage(tmp_path: Path) -> None:
    recipe = write_toy(tmp_path, stages=STAGE + STAGE.replace("3e-3", "1e-3"))
    heard = Heard()
    whole = train(read_recipe(recipe), tmp_path / "out", heard)
    first, second = tmp_path / "out" / "1-sft", tmp_path / "out" / "2-sft-2"
    lineage = json.loads((first / "model" / "lineage.json").read_text())
    assert lineage == json.loads((first / "lineage.json").read_text()) == whole["stages"]["sft"]
    assert lineage["parents"] == {str(tmp_path / "toy"): tree_hash(tmp_path / "toy")}
    assert whole["stages"]["sft-2"]["parents"] == {"sft": tree_hash(first / "model")}
    assert lineage["seed"] == 3
    assert lineage["configuration"]["optimizer"]["learning_rate"] == 3e-3
    assert lineage["ledger"]["tokens"] == sum(r["cost"]["tokens"] for r in read_log(first / "metrics.jsonl"))
    assert lineage["ledger"]["money"] > 0
    assert whole["ledger"]["tokens"] == 2 * lineage["ledger"]["tokens"]
    assert [name for name, _, _ in heard.begun] == ["sft", "sft-2"]
    assert millet.load(second / "model").config.hidden_size == 32


def test_the_preflight_comes_first_and_changes_nothing(tmp_path: Path) -> None:
    heard = Heard()
    train(read_recipe(write_toy(tmp_path)), tmp_path / "out", heard)
    loading, trying, data, memory, cost = heard.lines
    assert loading.startswith("sft: loading ")
    assert trying == "sft: trying the first steps"
    assert data.startswith("data: 60 sequences of ")
    assert memory.startswith("memory: ")
    assert "cost: about" in cost
    records = read_log(tmp_path / "out" / "1-sft" / "metrics.jsonl")
    assert sum(record["sequences"] for record in records) == 2 * 60, "the timed steps took no data away"


def test_stopped_and_begun_again_it_is_the_same_run(tmp_path: Path) -> None:
    recipe = read_recipe(write_toy(tmp_path))
    whole = train(recipe, tmp_path / "whole", Heard())
    interrupting = Interrupting(at=7)
    with pytest.raises(Stopped, match="stopped after step 8"):
        train(recipe, tmp_path / "out", interrupting)
    report = (tmp_path / "out" / "1-sft" / "report.html").read_text()
    assert "stopped after 8 steps" in report
    heard = Heard()
    again = train(recipe, tmp_path / "out", heard)
    assert heard.begun[0][:2] == ("sft", 8)
    assert again["stages"]["sft"]["sha256"] == whole["stages"]["sft"]["sha256"]
    done = Heard()
    assert train(recipe, tmp_path / "out", done) == again
    assert done.lines == [f"sft is done already, in {tmp_path / 'out' / '1-sft'}"]
    assert not done.steps


def test_what_goes_on_with_another_program_says_so_and_what_is_done_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = read_recipe(write_toy(tmp_path))
    with pytest.raises(Stopped):
        train(recipe, tmp_path / "out", Interrupting(at=2))
    monkeypatch.setattr("millet.train.lineage.code_hash", lambda: "another")
    going, done = Heard(), Heard()
    train(recipe, tmp_path / "out", going)
    monkeypatch.setattr("millet.train.lineage.code_hash", lambda: "a third")
    train(recipe, tmp_path / "out", done)
    assert "the program or the machine has changed" in going.lines[0]
    assert done.lines == [f"sft is done already, in {tmp_path / 'out' / '1-sft'}"]


def test_another_recipe_data_or_model_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    path = write_toy(tmp_path)
    with pytest.raises(Stopped):
        train(read_recipe(path), tmp_path / "out", Interrupting(at=2))
    text = path.read_text()
    path.write_text(text.replace("3e-3", "4e-3"))
    with pytest.raises(MilletError, match=r"recipe was another one \(optimizer.learning_rate was 0.003 and is 0.004\)"):
        train(read_recipe(path), tmp_path / "out", Heard())
    path.write_text(text.replace("seed = 3", "seed = 4"))
    with pytest.raises(MilletError, match=r"seed was another one \(was 3 and is 4\)"):
        train(read_recipe(path), tmp_path / "out", Heard())
    path.write_text(text)
    data = (tmp_path / "sums.jsonl").read_text()
    (tmp_path / "sums.jsonl").write_text(data.replace("What", "what"))
    with pytest.raises(MilletError, match=r"data was another one"):
        train(read_recipe(path), tmp_path / "out", Heard())
    assert (tmp_path / "out" / "recipe.toml").read_text() == text  # none of those that were refused
    (tmp_path / "sums.jsonl").write_text(data)
    train(read_recipe(path), tmp_path / "out", Heard())


def test_the_file_of_a_task_is_data_too(tmp_path: Path) -> None:
    problems = tmp_path / "sums.jsonl.tasks"
    problems.write_text(json.dumps({"question": "What is 1 + 1?", "answer": "2"}) + "\n")
    stage = '[[stage]]\nkind = "reject"\nproblems = 1\nmax_tokens = 4\ntasks = ["jsonl:sums.jsonl.tasks"]\n'
    path = write_toy(tmp_path, stages=stage)
    with pytest.raises(MilletError, match="none of the replies"):
        train(read_recipe(path), tmp_path / "out", Heard())
    origin = json.loads((tmp_path / "out" / "1-reject" / "origin.json").read_text())
    assert origin["data"] == {"jsonl:sums.jsonl.tasks": file_hash(problems)}
    problems.write_text(problems.read_text().replace("1 + 1", "one and one"))
    with pytest.raises(MilletError, match="data was another one"):
        train(read_recipe(path), tmp_path / "out", Heard())


def test_two_runs_in_one_folder_refuse_each_other(tmp_path: Path) -> None:
    recipe = read_recipe(write_toy(tmp_path))
    (tmp_path / "out").mkdir()
    with open(tmp_path / "out" / "lock", "w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)  # as another process holds it: a file opened anew is another holder
        with pytest.raises(MilletError, match="another run is using"):
            train(recipe, tmp_path / "out", Heard())
    train(recipe, tmp_path / "out", Heard())


def test_what_cannot_work_is_refused_before_the_first_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_toy(tmp_path)
    text = path.read_text()

    def refused(kind: type[MilletError], message: str) -> None:
        heard = Heard()
        with pytest.raises(kind, match=message):
            train(read_recipe(path), tmp_path / "out", heard)
        assert not heard.steps

    path.write_text(text.replace("sums.jsonl", "sum.jsonl"))
    refused(BadRequest, "reads sum.jsonl, which is not beside")
    path.write_text(text.replace("sums.jsonl", "stage:reject"))
    refused(BadRequest, "reads 'stage:reject', which names no earlier stage")
    path.write_text(text.replace("512", "64").replace("256", "32"))
    refused(BadRequest, r"sequences are longer than 32 tokens \(the longest has \d+\)")


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (
            'kind = "sft"\nname = "more"\ndata = ["stage:sft"]',
            "more reads 'stage:sft', which makes a model and no data",
        ),
        (
            'kind = "worked"\ntasks = ["chain_sum"]\nlevels = [999]',
            r"chain_sum has the levels 0 to \d+, and none of \[999\]",
        ),
        (
            'kind = "worked"\ntasks = ["chain_sum"]\n[[stage]]\nkind = "grpo"\nbase = "worked"\ntasks = ["chain_sum"]',
            "stage grpo needs the model of worked, which makes data and no model",
        ),
    ],
)
def test_what_a_later_stage_gets_wrong_is_said_before_the_first(tmp_path: Path, more: str, says: str) -> None:
    recipe = write_toy(tmp_path, stages=f"{STAGE}\n[[stage]]\n{more}\n")
    heard = Heard()
    with pytest.raises(BadRequest, match=says):
        train(read_recipe(recipe), tmp_path / "out", heard)
    assert heard.begun == []
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", ["grpo", "reject", "worked"])
def test_a_task_that_a_later_stage_lacks_is_said_before_the_first(tmp_path: Path, kind: str) -> None:
    recipe = write_toy(tmp_path, stages=STAGE + f'\n[[stage]]\nkind = "{kind}"\ntasks = ["chain_sun"]\n')
    heard = Heard()
    with pytest.raises(UnknownTask, match="there is no task 'chain_sun'; did you mean chain_sum"):
        train(read_recipe(recipe), tmp_path / "out", heard)
    assert heard.begun == []
    assert not (tmp_path / "out").exists()


def test_no_room_is_said_before_the_first_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = read_recipe(write_toy(tmp_path))
    with monkeypatch.context() as patch:
        patch.setattr(preflight, "read_memory", lambda: Memory(10**9, 1000))
        with pytest.raises(OutOfMemory, match=r"gradients and optimiser need .* \[stage.lora\]"):
            train(recipe, tmp_path / "out", Heard())
    with monkeypatch.context() as patch:
        patch.setattr(preflight, "state_bytes", lambda *_: 10**17)
        patch.setattr(preflight, "read_memory", lambda: Memory(10**18, 10**18))
        with pytest.raises(MilletError, match=r"checkpoints in .* need up to"):
            train(recipe, tmp_path / "out", Heard())
    train(recipe, tmp_path / "out", Heard())


def test_a_curve_s_mean_keeps_a_line_and_takes_noise_away() -> None:
    line = [3.0 * i for i in range(40)]
    assert moving_mean(line) == pytest.approx(line)
    noisy = moving_mean([(-1.0) ** i for i in range(40)])
    assert len(noisy) == 40
    assert max(map(abs, noisy[4:-4])) == pytest.approx(1 / 9)
    assert moving_mean([5.0]) == [5.0]
    assert moving_mean([]) == []


def test_the_report_needs_nothing_else_and_shows_text_as_text(tmp_path: Path) -> None:
    path = write_toy(tmp_path)
    path.write_text(path.read_text() + "# <script>\n")
    train(read_recipe(path), tmp_path / "out", Heard())
    report = (tmp_path / "out" / "1-sft" / "report.html").read_text()
    assert "<script" not in report
    assert "&lt;script&gt;" in report
    assert "http" not in report
    assert "<figcaption>loss</figcaption>" in report
    assert report.count("<polyline points") == report.count('<polyline class="mean"') >= 4
    assert f"millet train {path} --out {tmp_path / 'out'}" in report
    assert "cpu seconds" in report


def test_the_model_that_comes_out_is_the_one_that_was_trained(tmp_path: Path) -> None:
    train(read_recipe(write_toy(tmp_path)), tmp_path / "out", Heard())
    before, after = SafetensorsWeights(tmp_path / "toy"), SafetensorsWeights(tmp_path / "out" / "1-sft" / "model")
    assert before.shapes == after.shapes
    before.close()
    after.close()
    assert tree_hash(tmp_path / "toy" / "model.safetensors") != tree_hash(
        tmp_path / "out" / "1-sft" / "model" / "model.safetensors"
    )


def test_an_adapter_goes_on_in_the_next_stage(tmp_path: Path) -> None:
    lora = STAGE.replace("3e-3", "3e-2") + "[stage.lora]\nrank = 4\nalpha = 8\n"
    recipe = read_recipe(write_toy(tmp_path, stages=lora + lora))
    whole = train(recipe, tmp_path / "whole", Heard())
    adapter = tmp_path / "whole" / "2-sft-2" / "model"
    assert (adapter / "adapter_model.safetensors").exists()
    assert json.loads((adapter / "lineage.json").read_text())["parents"].keys() == {"sft"}
    assert millet.load(adapter).config.hidden_size == 32
    first, second = (read_log(tmp_path / "whole" / name / "metrics.jsonl") for name in ("1-sft", "2-sft-2"))
    learned = first[0]["loss"] - first[-1]["loss"]
    assert learned > 3
    assert first[0]["loss"] - second[0]["loss"] > learned / 2, "it begins where the first ended"
    with pytest.raises(Stopped):
        train(recipe, tmp_path / "out", Interrupting(at=8))
    again = train(recipe, tmp_path / "out", Heard())
    for name in ("sft", "sft-2"):
        assert again["stages"][name]["sha256"] == whole["stages"][name]["sha256"]


def test_a_disk_that_is_full_between_the_steps_is_one_line_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = read_recipe(write_toy(tmp_path, epochs=1))

    def full(folder: Path, *_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(folder))

    with monkeypatch.context() as patch:
        patch.setattr(chain, "write_lineage", full)
        patch.setattr(chain, "write_report", full)
        with pytest.raises(MilletError, match=r"1-sft.* \(No space left on device\); make room"):
            train(recipe, tmp_path / "out", Heard())
    heard = Heard()
    train(recipe, tmp_path / "out", heard)
    assert not heard.steps, "all of them were saved"


@pytest.mark.parametrize("lora", ["", "[stage.lora]\nrank = 2\n"])
def test_a_model_that_was_taught_to_think_says_so(tmp_path: Path, lora: str) -> None:
    recipe = write_toy(tmp_path, epochs=1, stages=STAGE + lora)
    unthinking_model(7).save(tmp_path / "toy")
    train(read_recipe(recipe), tmp_path / "out", Heard())
    before, after = (millet.load(path) for path in (tmp_path / "toy", tmp_path / "out" / "1-sft" / "model"))
    assert before.template is not None
    assert after.template is not None
    assert not think_format(before.template, before.tokenizer).own
    assert think_format(after.template, after.tokenizer).own
    messages = [{"role": "user", "content": "Hello"}]
    assert after.template.render(messages) == before.template.render(messages)
