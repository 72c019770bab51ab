"""Learning a teacher's probabilities over given conversations."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import millet
from millet.errors import BadRequest
from millet.train.chain import train
from millet.train.data import Example, Renderer
from millet.train.distill_logits import DistillLogits, DistillLogitsStage
from millet.train.metrics import read_log
from millet.train.recipe import read_recipe
from millet.train.signals import Stopped
from millet.train.taught import Taught
from millet.train.teacher import Teacher
from millet.train.trainee import Trainee
from tests.reasoning.toys import toy_model
from tests.train.taught import gap, recipe, write_taught
from tests.train.toy_recipe import Heard, one_thread  # noqa: F401 - a fixture

pytestmark = pytest.mark.usefixtures("one_thread")

STAGE = """
[[stage]]
kind = "distill-logits"
teacher = "{folder}/teacher"
data = ["sums.jsonl"]
epochs = 5
batch_tokens = 512
micro_tokens = 256
checkpoint_every = 5
[stage.optimizer]
learning_rate = 1e-2
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place: Path = tmp_path_factory.mktemp("taught")
    write_taught(place)
    return place


def test_the_loss_is_that_of_plain_pytorch_over_the_learned_tokens_of_the_step() -> None:
    """Two replies in one conversation, whose turn between them is not learned: both models read it alike; the teacher
    reads it without a thought; it is not asked."""
    draw = np.random.default_rng(3)
    examples: list[Example] = []
    for length in (9, 14, 6):
        learned = np.zeros(length, dtype=bool)
        learned[3:5] = learned[-2:] = True
        examples.append(Example(draw.integers(0, 400, length, dtype=np.int32), learned))
    alike, thinking, _ = examples
    examples[0] = Taught(alike.ids, alike.learned, alike, alike.learned)
    answer = np.arange(14) >= 12
    without = Example(np.concatenate((draw.integers(0, 400, 7, dtype=np.int32), thinking.ids[-2:])), np.arange(9) >= 7)
    examples[1] = Taught(thinking.ids, thinking.learned, without, answer)
    stage = DistillLogitsStage(
        name="d", data=("x",), teacher="t", temperature=2.0, cross_entropy=0.25, batch_tokens=32, micro_tokens=16
    )
    trainee = Trainee(toy_model(3))
    method = DistillLogits(trainee, Teacher(toy_model(4), "t"), examples, stage, seed=0)
    assert method.steps == 1
    losses = []
    for micro in method.micro_batches(0):
        losses.append(micro.loss.item())
        micro.loss.backward()
    assert len(losses) == 2

    reference, other = Trainee(toy_model(3)), toy_model(4)
    total, learned_tokens = torch.zeros(()), sum(int(e.learned.sum()) for e in examples)
    kls, missed = [], []
    for example in examples:
        shared = example.shared if isinstance(example, Taught) else np.zeros(len(example), dtype=bool)
        hidden, targets = reference.hidden([example.ids.tolist()], [1])
        logits = F.linear(hidden, reference.head)
        plain, mask = torch.from_numpy(example.learned & ~shared)[1:], torch.from_numpy(shared)[1:]
        missed += [F.cross_entropy(logits[each], targets[each], reduction="sum") for each in (plain, mask)]
        total = total + missed[-2]
        if isinstance(example, Taught):
            read, rows = example.teacher.ids.tolist(), torch.from_numpy(example.teacher.learned)[1:]
            theirs = (other.logits(read)[:-1][rows] / 2).softmax(-1)
            kls.append(F.kl_div((logits[mask] / 2).log_softmax(-1), theirs, reduction="sum"))
            total = total + 0.75 * 4 * kls[-1] + 0.25 * missed[-1]
    (total / learned_tokens).backward()
    assert sum(losses) == pytest.approx(total.item() / learned_tokens, rel=1e-4)
    for name, parameter in reference.parameters.items():
        torch.testing.assert_close(trainee.parameters[name].grad, parameter.grad, rtol=1e-3, atol=1e-5)
    told = method.metrics()
    assert 0 <= (told["agreement"] or 0) <= 1
    assert told["kl"] == pytest.approx(sum(kls).item() / 6, rel=1e-4)  # type: ignore[union-attr]
    assert told["cross_entropy"] == pytest.approx(sum(missed).item() / learned_tokens, rel=1e-4)  # type: ignore[union-attr]


@pytest.mark.parametrize("more", ["", "temperature = 2.0\ncross_entropy = 0.2\nexact = true"])
def test_the_student_comes_nearer(folder: Path, tmp_path: Path, more: str, request: pytest.FixtureRequest) -> None:
    if "exact" in more:
        request.getfixturevalue("with_native")
    heard = Heard()
    path = recipe(folder, STAGE.replace("[stage.optimizer]", more + "\n[stage.optimizer]"))
    whole = train(read_recipe(path), tmp_path / "out", heard)
    assert any(line.startswith(f"teacher: {folder}/teacher, 0.00 GB") for line in heard.lines)
    place = tmp_path / "out" / "1-distill-logits"
    before, after = gap(folder, folder / "student"), gap(folder, place / "model")
    assert after < before / 2
    records = read_log(place / "metrics.jsonl")
    assert records[-1]["kl"] < records[0]["kl"] / 2
    assert records[-1]["cross_entropy"] < records[0]["cross_entropy"]
    assert records[-1]["agreement"] > records[0]["agreement"]
    (sample,) = read_log(place / "samples.jsonl")
    assert sample["learned"] in sample["read"]
    assert set(whole["stages"]["distill-logits"]["parents"]) == {f"{folder}/student", f"{folder}/teacher"}


def test_plain_data_is_learned_without_the_teacher(folder: Path, tmp_path: Path) -> None:
    """The teacher knows nothing of it: the student learns it, and elsewhere comes nearer to the teacher."""
    other = [{"role": "user", "content": "Say it."}, {"role": "assistant", "content": "zq zq zq"}]
    (folder / "plain.jsonl").write_text((json.dumps({"messages": other}) + "\n") * 8)
    place = tmp_path / "out" / "1-distill-logits"
    more = 'plain_data = ["plain.jsonl"]\n[stage.optimizer]'
    train(read_recipe(recipe(folder, STAGE.replace("[stage.optimizer]", more))), tmp_path / "out", Heard())
    assert gap(folder, place / "model") < gap(folder, folder / "student") / 2
    said = [_loss(model, other) for model in (folder / "student", folder / "teacher", place / "model")]
    assert said[2] == min(said)
    assert said[2] < said[0] / 2
    whole = json.loads((place / "lineage.json").read_text())
    assert {"sums.jsonl", "plain.jsonl"} <= {Path(each).name for each in whole["data"]}


def _loss(path: Path, messages: list[dict[str, str]]) -> float:
    """Nats a token of the reply."""
    trainee = Trainee(millet.load(path, dtype="float32", device="cpu"))
    (example,) = Renderer(trainee.model).examples(messages)
    with torch.no_grad():
        (logprobs,) = trainee.logprobs([example.ids.tolist()], [example.first])
    return -logprobs.mean().item()


class Interrupting(Heard):
    def step(self, done: int, record: Mapping[str, Any]) -> None:
        super().step(done, record)
        if done == 7:
            os.kill(os.getpid(), signal.SIGTERM)


def test_stopped_and_begun_again_it_is_the_same_run(folder: Path, tmp_path: Path) -> None:
    told = read_recipe(recipe(folder, STAGE))
    whole = train(told, tmp_path / "whole", Heard())
    with pytest.raises(Stopped):
        train(told, tmp_path / "out", Interrupting())
    again = train(told, tmp_path / "out", Heard())
    name = "distill-logits"
    assert again["stages"][name]["sha256"] == whole["stages"][name]["sha256"]


def test_impossible_settings_are_one_line() -> None:
    with pytest.raises(BadRequest, match="temperature is 0; it must be above 0"):
        DistillLogitsStage(name="d", data=("x",), teacher="t", temperature=0)
    with pytest.raises(BadRequest, match="cross_entropy is 1; it must be from 0"):
        DistillLogitsStage(name="d", data=("x",), teacher="t", cross_entropy=1)
