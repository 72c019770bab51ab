"""The recipe's stories of several calculations: how a block is read, and that all of them can be told and solved."""

import random
import re
import sys
from types import ModuleType

import pytest

from millet.tasks.find import find_task
from millet.tasks.task import PlainReply, Problem

BLOCK = """
STORY {F} bakes {a} trays of muffins with {b} on each. [She|At the fair, she] sells {c} of them to {M}.
NUM a=2..8 b=6,12,24 c=10..60/5 p=25,50; c < a*b; c%2 <= 0
ASK How many muffins does {F} have left?
- Muffins {F} bakes: a*b
- Muffins left: #1-c
ASK Of all that she bakes, {p}% are plain. How many is that?
- Muffins baked: a*b
- Plain muffins: pct(p, #1)
"""


@pytest.fixture
def tales() -> ModuleType:
    return sys.modules[type(find_task("recipes/millet-135m/tales.py")).__module__]


def test_a_block_is_read_and_drawn_by_its_rules(tales: ModuleType):
    tale = tales.read(BLOCK)
    rng = random.Random(0)
    prompts = set()
    for _ in range(60):
        problem = tales.drawn(tale, tale.questions[0], rng)
        a, b, c = (int(number) for number in re.findall(r"\d+", problem.prompt))
        assert a in range(2, 9)
        assert b in (6, 12, 24)
        assert c in range(10, 61, 10), "even, and in steps of five"
        assert c < a * b
        assert problem.answer == str(a * b - c)
        (baked, left), she = problem.meta["steps"], problem.prompt.split()[0]
        assert baked == (f"Muffins {she} bakes", f"{a}*{b}", a * b)
        assert left == ("Muffins left", f"{a * b}-{c}", a * b - c)
        assert she in tales.SHE.split()
        assert problem.prompt.split(" to ")[1].split(".")[0] in tales.HE.split()
        prompts.add(re.sub(r"\d+", "", problem.prompt.partition(".")[2])[:6])
    assert prompts == {" She s", " At th"}


def test_a_thought_says_what_it_calculates(tales: ModuleType):
    steps = [("Muffins baked", "4*12", 48), ("Plain muffins", "pct(25,48)", 12)]
    problem = Problem("How many?", "12", {"steps": steps})
    assert tales.Tales().work(problem) == PlainReply(
        "Muffins baked: 12*4: 2*4=8 8, 1*4=4 48\n"
        "Plain muffins: 25% of 48: 48*20: 8*2=16 6, 4*2+1=8+1=9 96, so 960\n"
        "48*5: 8*5=40 0, 4*5+4=20+4=24 240\n"
        "960+240: 0+0=0 0, 6+4=10 00, 9+2+1=12 1200, so 12",
        "The answer is 12.",
    )
    assert tales.Tales().grade(problem, tales.Tales().work(problem)).passed


def test_numbers_that_do_not_come_out_well_are_not_drawn(tales: ModuleType):
    halves = tales.read("STORY {M} has {a} nuts.\nNUM a=1..9\nASK How many are half of them?\n- Half of the nuts: a/2")
    rng = random.Random(0)
    assert {tales.drawn(halves, halves.questions[0], rng).answer for _ in range(40)} == {"1", "2", "3", "4"}
    never = tales.read("STORY {M} has {a} nuts.\nNUM a=3,5\nASK How many are half of them?\n- Half of the nuts: a/2")
    assert tales.drawn(never, never.questions[0], rng) is None


@pytest.mark.parametrize(("block", "why"), [
    ("STORY A story.\nTHEN more", "a line begins with THEN"),
    ("STORY {M} has {a} nuts.\nNUM a=some\nASK How many?\n- Nuts: a+1", "some"),
])  # fmt: skip
def test_what_is_no_block_is_refused(block: str, why: str, tales: ModuleType):
    with pytest.raises(ValueError, match=why):
        tales.read(block)


@pytest.fixture
def more_tales() -> ModuleType:
    return sys.modules[type(find_task("recipes/millet-135m/more_tales.py")).__module__]


def test_every_story_is_told_and_solved(tales: ModuleType, more_tales: ModuleType):
    rng = random.Random(0)
    for tale in [*tales.tales(), *more_tales.more_tales()]:
        assert len(tale.questions) > 1, tale.told
        for question in tale.questions:
            problem = tales.drawn(tale, question, rng)
            assert problem, f"no numbers were found for {tale.told!r} {question.asked!r}"
            assert not re.search(r"[{}\[\]|]", problem.prompt), problem.prompt
            assert problem.prompt.endswith("?")
            for label, expression, result in problem.meta["steps"]:
                assert label[0].isupper()
                percent = re.fullmatch(r"pct\((\d+),(\d+)\)", expression)
                assert eval(f"{percent[1]}*{percent[2]}/100" if percent else expression) == result > 0
            assert tales.Tales().work(problem).content == f"The answer is {result}."


def test_more_stories_are_others_and_told_and_solved_alike(tales: ModuleType, more_tales: ModuleType):
    told = [tale.told for tale in [*tales.tales(), *more_tales.more_tales()]]
    assert len(set(told)) == len(told) > 6900
    task = more_tales.MoreTales()
    problem = task.sample(random.Random(0), 0)
    assert task.grade(problem, task.work(problem)).passed
