"""GRPO as a stage of a recipe, with the real engine, trainer and graders, on a toy model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from millet.errors import BadRequest
from millet.train.chain import train
from millet.train.grpo import GrpoStage
from millet.train.recipe import read_recipe
from tests.models.files import toy, write_gguf
from tests.reasoning.toys import toy_model
from tests.train.toy_recipe import Heard

TASK = '''
from millet.tasks.task import Grade, Problem

class Length:
    """A reply is worth the more, the longer it is beyond a multiple of five letters: a toy's replies all differ."""
    name, levels = "length", 1

    def sample(self, rng, level):
        return Problem(f"Say {rng.randrange(1000)}.", "")

    def grade(self, problem, reply):
        return Grade(len(reply.content) % 5 / 4, "counted")
'''

STAGE = """
[[stage]]
kind = "grpo"
tasks = ["{task}"]
steps = {steps}
questions = 2
replies = 4
max_tokens = 12
think = "off"
exact = true
format_reward = 0.0
checkpoint_every = 2
{more}

[stage.optimizer]
learning_rate = 3e-3

[stage.objective]
kl = {kl}
clip_low = 0.2
clip_high = 0.28
average = "token"
"""


LORA = "[stage.lora]\nrank = 4"


def write(
    folder: Path, steps: int = 4, kl: float = 0.0, more: str = "", prefix: str = "", quantised: bool = False
) -> Path:
    folder.mkdir(exist_ok=True)
    if quantised:
        base = write_gguf(toy("qwen3-tied", 7, hidden_size=64, intermediate_size=96), folder / "toy.gguf", "Q4_1")
    else:
        base = folder / "toy"
        model = toy_model(7)
        with torch.no_grad():
            model.network.model.embed_tokens.weight *= 0.05  # else it repeats its last token for ever
        model.save(base)
    task = folder / "length.py"
    task.write_text(TASK)
    recipe = folder / "recipe.toml"
    stage = STAGE.format(task=task, steps=steps, kl=kl, more=more)
    recipe.write_text(f'seed = 3\n[model]\nbase = "{base}"\ndevice = "cpu"\n{prefix}{stage}')
    return recipe


def records(out: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (out / "1-grpo" / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.usefixtures("with_native")
@pytest.mark.parametrize(
    ("more", "quantised"),
    [("", False), (LORA, False), (LORA, True), (f"{LORA}\nquantised = false", True)],
    ids=["full", "lora", "quantised", "made fp32"],
)
def test_the_trainer_has_the_samplers_bits(tmp_path: Path, more: str, quantised: bool) -> None:
    """At every step, also behind the first, when the sampler's weights are those of a step of training."""
    recipe = write(tmp_path / "toy", kl=0.05, more=more, quantised=quantised)
    train(read_recipe(recipe), tmp_path / "out", Heard())
    found = records(tmp_path / "out")
    assert len(found) == 4
    assert [each["mismatch_largest"] for each in found] == [0.0] * 4
    assert all(each["gradient_norm"] > 0 for each in found)
    assert all(each["grader_errors"] == each["grader_timeouts"] == 0 for each in found)
    assert found[0]["kl"] == 0
    assert found[-1]["kl"] > 0
    assert (tmp_path / "out" / "1-grpo" / "model").is_dir()


@pytest.mark.usefixtures("with_native")
@pytest.mark.parametrize("more", ["", "[stage.lora]\nrank = 4"], ids=["full", "lora"])
def test_a_quantised_sampler_is_told_by_its_mismatch(tmp_path: Path, more: str) -> None:
    """It is small, it does not grow as the weights learn, and without quantisation it is rounding alone."""
    found = {}
    for sampler in ("q8", "fp32"):
        recipe = write(tmp_path / sampler, more=more)
        text = recipe.read_text().replace("exact = true", f'exact = false\nsampler = "{sampler}"')
        recipe.write_text(text)
        train(read_recipe(recipe), tmp_path / f"out-{sampler}", Heard())
        found[sampler] = [record["mismatch"] for record in records(tmp_path / f"out-{sampler}")]
    assert all(1e-4 < mismatch < 0.05 for mismatch in found["q8"])
    assert all(mismatch < 1e-5 for mismatch in found["fp32"])


@pytest.mark.usefixtures("with_native")
def test_a_base_that_is_quantised_already_is_not_quantised_for_sampling(tmp_path: Path) -> None:
    recipe = write(tmp_path / "toy", more=LORA, quantised=True)
    recipe.write_text(recipe.read_text().replace("exact = true", 'exact = false\nsampler = "q8"'))
    with pytest.raises(BadRequest, match="has quantised weights, which are sampled from as they are"):
        train(read_recipe(recipe), tmp_path / "out", Heard())


def test_replies_are_sampled_at_its_temperature(tmp_path: Path) -> None:
    """So cold that all replies to a question are the same; at 1, as everywhere else here, they differ."""
    recipe = write(tmp_path / "toy", more="temperature = 1e-4")
    with pytest.raises(BadRequest, match=r"all replies to each of .* got the same reward"):
        train(read_recipe(recipe), tmp_path / "out", Heard())
    recipe = write(tmp_path / "toy", steps=2, more="temperature = 0.6")
    train(read_recipe(recipe), tmp_path / "warmer", Heard())
    found = records(tmp_path / "warmer")
    assert [each["mismatch"] for each in found] == [0.0, 0.0], "ratios begin at 1"
    assert all(each["gradient_norm"] > 0 for each in found)


def test_an_exact_sampler_is_not_quantised() -> None:
    with pytest.raises(BadRequest, match="exact needs the sampler"):
        GrpoStage(name="x", tasks=("x",), exact=True, sampler="q8")
