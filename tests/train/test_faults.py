"""Whatever happens to a stage, of whatever kind, it goes on to the end that it would have had."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import psutil
import pytest

from millet.cli.main import FAILED
from millet.errors import MilletError
from millet.tasks.draw import draw
from millet.tasks.find import find_task
from millet.train.chain import train
from millet.train.recipe import KINDS, read_recipe
from millet.train.signals import Stopped
from millet.train.stage import TrainingStage
from millet.train.trainee import Trainee
from millet.train.worked import BATCH
from tests.reasoning.toys import toy_model
from tests.train.faulty import train_until
from tests.train.toy_recipe import Heard, one_thread  # noqa: F401 - a fixture
from tests.train.toy_start import TOY_START, documented, example, write_examples

pytestmark = pytest.mark.usefixtures("one_thread")

STEPS = 8  # of a stage that samples; those that learn from the examples have a few more
TRAINING = """
checkpoint_every = 3
[stage.optimizer]
learning_rate = 1e-3
"""
EXAMPLES = 'data = ["examples.jsonl"]\nepochs = 2\nbatch_tokens = 512\nmicro_tokens = 256\n' + TRAINING
ASKING = f'tasks = ["digits.py"]\nproblems = {2 * STEPS}\nbatch = 2\nreplies = 4\nmax_tokens = 24\ntemperature = 1.0\n'
ROLLOUTS = f'tasks = ["digits.py"]\nsteps = {STEPS}\nquestions = 2\nreplies = 4\nmax_tokens = 24\n'
DOUBLES = """
from millet.tasks.task import Grade, PlainReply, Problem

class Doubles:
    name, levels = "doubles", 2

    def sample(self, rng, level):
        number = rng.randrange(10**6)
        return Problem(f"Twice {number}?", str(2 * number))

    def grade(self, problem, reply):
        return Grade(float(reply.content == problem.answer))

    def work(self, problem):
        return PlainReply("Both digit by digit.", problem.answer)
"""
TEACHER = 'teacher = "./teacher"\n'
STAGES = {
    "sft": EXAMPLES,
    "grpo": ROLLOUTS + TRAINING,
    "reject": ASKING,
    "distill": f'teacher = "{TOY_START}"\n' + ASKING,
    "answers": 'data = "everyday.jsonl"\nbatch = 2\nmax_tokens = 24\n',
    "magpie": "turns = 150\nturn_tokens = 120\nmax_tokens = 24\nbatch = 2\n",
    "worked": f'tasks = ["doubles.py"]\nlevels = [0, 1]\nproblems = {5 * BATCH}\n',
    "distill-logits": TEACHER + EXAMPLES,
    "distill-on-policy": TEACHER + ROLLOUTS.replace("replies = 4\n", "") + TRAINING,
}
LEARNING = [kind for kind, stage in STAGES.items() if TRAINING in stage]


@dataclass(frozen=True)
class Toy:
    """A recipe of one stage: how many steps it has, and the hash of what comes out where nothing happens."""

    kind: str
    recipe: Path
    steps: int
    whole: str

    def go_on(self, out: Path) -> None:
        """To the end, which must be that of the run that nothing happened to."""
        heard = Heard()
        assert run(self.kind, self.recipe, out, heard) == self.whole
        _, done, steps = heard.begun[0]
        assert 0 < done < steps == self.steps
        assert heard.steps == list(range(done + 1, steps + 1)), "nothing is done twice"


def run(kind: str, recipe: Path, out: Path, progress: Heard) -> str:
    sha256: str = train(read_recipe(recipe), out, progress)["stages"][kind]["sha256"]
    return sha256


@pytest.fixture(scope="module")
def toys(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Toy]:
    return {}


@pytest.fixture
def toy(kind: str, toys: dict[str, Toy], tmp_path_factory: pytest.TempPathFactory, monkeypatch: Any) -> Toy:
    """Made once for each kind; its folder is the working directory."""
    if kind not in toys:
        folder = tmp_path_factory.mktemp(kind)
        (folder / "digits.py").write_text(documented("digits.py"))
        task = find_task(str(folder / "digits.py"))
        problems = [draw(task, "train", 0, index) for index in range(40)]
        write_examples(folder / "examples.jsonl", [example(problem) for problem in problems])
        questions = list(dict.fromkeys(problem.prompt for problem in problems))[: 2 * STEPS]
        thoughts = [{"question": each, "reasoning": "They ask for a sum."} for each in questions]
        write_examples(folder / "everyday.jsonl", thoughts)
        (folder / "doubles.py").write_text(DOUBLES)
        toy_model(7).save(folder / "teacher")  # it knows nothing, and so there is something to change
        recipe = folder / "recipe.toml"
        recipe.write_text(f'[model]\nbase = "{TOY_START}"\ndevice = "cpu"\n[[stage]]\nkind = "{kind}"\n{STAGES[kind]}')
        monkeypatch.chdir(folder)
        heard = Heard()
        whole = run(kind, recipe, folder / "whole", heard)
        toys[kind] = Toy(kind, recipe, heard.begun[0][2], whole)
    monkeypatch.chdir(toys[kind].recipe.parent)
    return toys[kind]


class Interrupted(Heard):
    """Something happens at a step."""

    def __init__(self, at: int, *signals: signal.Signals) -> None:
        super().__init__()
        self.at, self.signals = at, signals

    def step(self, done: int, record: Mapping[str, Any]) -> None:
        super().step(done, record)
        if done == self.at:
            self.happen()

    def happen(self) -> None:
        for each in self.signals:
            os.kill(os.getpid(), each)


def test_every_kind_is_here() -> None:
    kinds = {kind: vars(import_module(module))[name] for kind, (module, name) in KINDS.items()}
    assert kinds.keys() == STAGES.keys() | {"average"}, "which is done at once"
    assert {kind for kind, stage in kinds.items() if issubclass(stage, TrainingStage)} == set(LEARNING)


@pytest.mark.parametrize("kind", STAGES)
def test_killed_anywhere(kind: str, toy: Toy, tmp_path: Path, seed: int) -> None:
    """SIGKILL at some moment behind a random step, early enough that there is something left to do."""
    draw = random.Random(seed)
    first = 3 if kind in LEARNING else 1  # from where on there is something to go on with
    step, seconds = draw.randrange(first, toy.steps - 2), draw.random() / 100
    code, errors = train_until("kill", step, toy.recipe, tmp_path / "out", seconds)
    assert code == -signal.SIGKILL, errors
    toy.go_on(tmp_path / "out")


@pytest.mark.parametrize("kind", STAGES)
def test_a_signal_lets_the_step_end_and_saves(kind: str, toy: Toy, tmp_path: Path) -> None:
    """And a second run in the same folder, which is refused meanwhile, changes nothing."""

    class Second(Interrupted):
        def happen(self) -> None:
            with pytest.raises(MilletError, match="another run is using"):
                run(kind, toy.recipe, tmp_path / "out", Heard())
            super().happen()

    heard = Second(4, signal.SIGTERM)
    with pytest.raises(Stopped, match=r"stopped after (step|batch) \d+ of \d+ and saved; run the same command to go"):
        run(kind, toy.recipe, tmp_path / "out", heard)
    assert heard.steps[-1] in (4, 5), "a step that is done is saved, and no other is begun"
    toy.go_on(tmp_path / "out")


@pytest.mark.parametrize("kind", STAGES)
def test_a_second_ctrl_c_does_not_wait(kind: str, toy: Toy, tmp_path: Path) -> None:
    heard, children = Interrupted(4, signal.SIGINT, signal.SIGINT), psutil.Process().children()
    with pytest.raises(KeyboardInterrupt):
        run(kind, toy.recipe, tmp_path / "out", heard)
    assert heard.steps[-1] == 4
    assert psutil.Process().children() == children, "graders have ended too"
    toy.go_on(tmp_path / "out")


@pytest.mark.parametrize("kind", STAGES)
def test_a_full_disk_is_one_line(kind: str, toy: Toy, tmp_path: Path) -> None:
    code, errors = train_until("disk-full", 4, toy.recipe, tmp_path / "out")
    assert code == FAILED, errors
    last = errors.splitlines()[-1]
    assert last.startswith("millet: ")
    assert "File too large" in last
    assert last.endswith("make room and run the same command to go on")
    assert "Traceback" not in errors
    toy.go_on(tmp_path / "out")


@pytest.mark.parametrize("kind", LEARNING)
def test_a_loss_that_is_no_number_is_one_line(
    kind: str, toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hidden = Trainee._hidden

    def broken(trainee: Trainee, batch: Any) -> Any:
        states, head = hidden(trainee, batch)
        return states * float("nan"), head

    class Broken(Interrupted):
        def happen(self) -> None:
            monkeypatch.setattr(Trainee, "_hidden", broken)

    told = "the loss is nan at step 5, so training stopped and the checkpoint of step 3 stands; lower the learning rate"
    with pytest.raises(MilletError, match=told):
        run(kind, toy.recipe, tmp_path / "out", Broken(4))
    monkeypatch.setattr(Trainee, "_hidden", hidden)
    toy.go_on(tmp_path / "out")
