"""Graders that fail: no stage takes what they leave ungraded for wrong replies without a word."""

from __future__ import annotations

from pathlib import Path

import pytest

from millet.errors import BadRequest
from millet.tasks.task import Grade
from millet.train.chain import train
from millet.train.metrics import read_log
from millet.train.recipe import read_recipe
from millet.train.ungraded import measure, told
from tests.train.toy_recipe import Heard, one_thread  # noqa: F401 - a fixture
from tests.train.toy_start import TOY_START, documented

pytestmark = pytest.mark.usefixtures("one_thread")

ASKING = "problems = 8\nreplies = 4\ntemperature = 1.0\nmax_tokens = 24\n"
STAGES = {
    "reject": ASKING,
    "distill": f'teacher = "{TOY_START}"\nonly_right = true\n' + ASKING,
    "distill-on-policy": f'teacher = "{TOY_START}"\nsteps = 3\nquestions = 4\nmax_tokens = 24\n',
}
HEAD = "    def grade(self, problem: Problem, reply: Answered) -> Grade:\n"


def recipe(folder: Path, kind: str, first: str) -> Path:
    """first: what the grader does before it grades."""
    task = documented("digits.py")
    assert HEAD in task
    (folder / "digits.py").write_text(task.replace(HEAD, f"{HEAD}        {first}\n"))
    path = folder / "recipe.toml"
    stage = f'[[stage]]\nkind = "{kind}"\ntasks = ["digits.py"]\n{STAGES[kind]}'
    path.write_text(f'[model]\nbase = "{TOY_START}"\ndevice = "cpu"\n{stage}')
    return path


def test_what_is_counted_and_told() -> None:
    failed = [Grade(0, "timeout after 10 s"), Grade(0, "error: ValueError"), Grade(0, "error: the grader died")]
    found = measure([Grade(0, "wrong"), *failed, Grade(0, "(error in the reply)"), Grade(1)])
    assert found == {"grader_timeouts": 1, "grader_errors": 2}
    assert told([{"step": 1}, measure([Grade(0, "wrong")])]) == ""
    assert told([found, {"step": 2}, found]).startswith(
        "6 could not be graded and count as wrong (2 timeouts and 4 errors"
    )


@pytest.mark.parametrize("kind", ["reject", "distill"])
def test_a_grader_that_always_fails_is_named_in_the_refusal(tmp_path: Path, kind: str) -> None:
    path, heard = recipe(tmp_path, kind, "raise ValueError"), Heard()
    failed = (
        r"32 could not be graded and count as wrong \(0 timeouts and 32 errors of graders; see `millet task check`\)"
    )
    with pytest.raises(BadRequest, match=rf"none of the replies of .* was .*; {failed}; .*ask easier levels"):
        train(read_recipe(path), tmp_path / "out", heard)


@pytest.mark.parametrize("kind", STAGES)
def test_one_that_fails_now_and_then_is_told(tmp_path: Path, kind: str) -> None:
    heard = Heard()
    path = recipe(tmp_path, kind, 'assert int(problem.answer) % 2 or not reply.content, "even sums are not for me"')
    train(read_recipe(path), tmp_path / "out", heard)
    records = read_log(tmp_path / "out" / f"1-{kind}" / "metrics.jsonl")
    failed = sum(record["grader_errors"] for record in records)
    assert failed > 0
    assert f"{kind}: {told(records)}" in heard.lines
    assert f"(0 timeouts and {failed} errors of graders" in told(records)
