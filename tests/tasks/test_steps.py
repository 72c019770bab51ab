"""GSM8K's solutions as steps that say first what they come to, and how each is worked in whole numbers."""

import sys
from pathlib import Path
from types import ModuleType

import pytest

from millet.tasks.find import find_task
from millet.tasks.task import PlainReply, Problem
from millet.tasks.worked.unworked import Unworked
from tests.tasks.test_worked import jsonl


@pytest.fixture
def steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    row = {"question": "How many?", "answer": "So she has 2+2=<<2+2=4>>4 cats.\nOr 4+1 = <<4+1=5>>5 with hers.\n#### 5"}
    (tmp_path / "gsm8k").mkdir()
    jsonl(tmp_path / "gsm8k" / "train.jsonl", row)
    monkeypatch.setenv("MILLET_DATA", str(tmp_path))
    return sys.modules[type(find_task("recipes/millet-135m/steps.py")).__module__]


@pytest.mark.parametrize(("line", "found"), [
    ("They need 12*8 = <<12*8=96>>96 legs.", [("They need legs", "12*8", "96")]),
    ("Therefore, the total is $20 + $8 = $<<20+8=28>>28.", [("The total", "20+8", "28")]),
    ("He walks 7 miles a day x 6 days = <<7*6=42>>42 miles", [("He walks miles", "7*6", "42")]),
    ("First, the cat eats 2+1=<<2+1=3>>3 fish and the dog 3*2=<<3*2=6>>6.",
     [("The cat eats fish", "2+1", "3"), ("The dog", "3*2", "6")]),
    ("It rained. Of 574 shells, half are 574/2=<<574/2=287>>287.", [("Of 574 shells, half", "574/2", "287")]),
    ("Let x be that.", []),
])  # fmt: skip
def test_a_step_says_what_it_comes_to(line: str, found: list[tuple[str, str, str]], steps: ModuleType):
    assert steps.steps(line) == found


@pytest.mark.parametrize(("line", "why"), [
    ("because 287 x 4 = <<1148=1148>>1,148 legs", "how it came to"),
    ("She has the 48 eggs as 50-2=<<50-2=48>>48", "yet to be found"),
    ("2+2=<<2+2=4>>4", "no words"),
    ("Cats: 3 tens + 2 = <<30+2=32>>32", "written otherwise"),
])  # fmt: skip
def test_a_step_that_cannot_be_said_is_not_taught(line: str, why: str, steps: ModuleType):
    with pytest.raises(Unworked, match=why):
        steps.steps(line)


@pytest.mark.parametrize(("expression", "result", "lines"), [
    ("12*8", "96", ["12*8: 2*8=16 6, 1*8+1=8+1=9 96"]),
    ("35*.1", "3.5", ["35*0.1: 35*1=35, so 3.5"]),
    ("4.50+2.75", "7.25", ["4.5+2.75: 450+275: 0+5=5 5, 5+7=12 25, 4+2+1=7 725, so 7.25"]),
    ("10-2.5", "7.5", ["10-2.5: 100-25: 0-5<0 10-5=5 5, 0-2-1<0 10-2-1=7 75, 1-1=0 075, so 75, so 7.5"]),
    ("3/4*200", "150", ["200/4: 20=20+0=4*5+0, 0=0+0=4*0+0, so 50", "50*3: 0*3=0 0, 5*3=15 150"]),
    ("30*(2/5)", "12", ["30/5=6", "6*2=12"]),
    ("25%*80", "20", ["80*20: 0*2=0 0, 8*2=16 160, so 1600", "80*5: 0*5=0 0, 8*5=40 400",
                      "1600+400: 0+0=0 0, 0+0=0 00, 6+4=10 000, 1+1=2 2000", "2000/100=20"]),
    ("7/2", "3.5", ["7/2: 70/2: 7=6+1=2*3+1, 10=10+0=2*5+0, so 35, so 3.5"]),
    ("6/.5", "12", ["6/0.5: 60/5: 6=5+1=5*1+1, 10=10+0=5*2+0, so 12"]),
])  # fmt: skip
def test_what_is_not_whole_is_worked_in_whole_numbers(
    expression: str, result: str, lines: list[str], steps: ModuleType
):
    assert steps.worked(expression, result) == lines


@pytest.mark.parametrize(("expression", "result"), [
    ("1/3*100", "33.33"), ("2-5", "-3"), ("5*1", "5"), ("4/0", "0"), ("2+2", "5"), ("2+", "2"), ("7", "7"),
])  # fmt: skip
def test_what_cannot_be_worked_is_not(expression: str, result: str, steps: ModuleType):
    with pytest.raises(Unworked):
        steps.worked(expression, result)


def test_whole_solutions(steps: ModuleType):
    task, plain = steps.Steps(), find_task(steps.SOURCE)
    assert task.name == plain.name, "or others would be drawn"
    (problem,) = (*task.items("train"), *task.items("eval"))
    assert task.work(problem) == PlainReply("She cats: 2+2=4\nWith hers: 4+1=5", "The answer is 5.")
    assert task.grade(problem, task.work(problem)).passed
    for solution in ("", "She has 2+2 = <<2+2=4>>4 cats"):
        with pytest.raises(Unworked, match="last calculation"):
            task.work(Problem("How many?", "5", {"solution": solution}))
