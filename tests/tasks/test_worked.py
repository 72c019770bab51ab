"""Worked solutions: right by the datasets' own scorers, and true in every line."""

import json
import random
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

from millet.errors import UnknownTask
from millet.tasks.draw import draw
from millet.tasks.find import find_task
from millet.tasks.gym import GymTask
from millet.tasks.task import PlainReply, Problem, WorkedTask
from millet.tasks.worked import WORKED, words, work
from millet.tasks.worked.arithmetic import over, times
from millet.tasks.worked.columns import by_digit, total
from millet.tasks.worked.expressions import basic_arithmetic
from millet.tasks.worked.unworked import Unworked

EQUATION = re.compile(r"(?<![\w.])-?\d[\d+*/-]*(?:=-?\d[\d+*/-]*)+")  # 2*3=6, 58*6=300+48=348


def jsonl(path: Path, row: dict[str, object]) -> Path:
    path.write_text(json.dumps(row) + "\n")
    return path


def name_of(dataset: str) -> str:
    return "countdown:min_numbers=3:max_numbers=3" if dataset == "countdown" else dataset


def equations(text: str) -> list[list[str]]:
    return [found.split("=") for found in EQUATION.findall(text)]


@pytest.mark.parametrize("dataset", WORKED)
def test_solutions_are_right_and_every_equation_in_them_is_true(dataset: str):
    task = GymTask(name_of(dataset))
    assert isinstance(task, WorkedTask)
    worked = checked = 0
    for index in range(100):
        problem = draw(task, "train", 0, index)
        try:
            reply = task.work(problem)
        except Unworked:
            continue
        worked += 1
        assert task.grade(problem, reply).passed, (problem.prompt, reply)
        for sides in equations(reply.reasoning):
            # Quotients are exact, or said to be rounded down.
            assert len({eval(side.replace("/", "//")) for side in sides}) == 1, (sides, reply.reasoning)
            checked += 1
    assert worked >= (80 if dataset == "countdown" else 90)
    texts = ("letter_counting", "spell_backward", "number_sorting", "family_relationships")
    assert (checked == 0) == (dataset in texts)


def test_equations_that_are_not_true_would_be_seen():
    assert equations("3 wasp: 3*6=18, 178+18=196") == [["3*6", "18"], ["178+18", "196"]]
    assert equations("58*6=300+48=348\n-5-3=-8") == [["58*6", "300+48", "348"], ["-5-3", "-8"]]


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (times(58, 6), ["58*6: 8*6=48 8, 5*6+4=30+4=34 348"]),
        (times(6, 7), ["6*7=42"]),
        (times(58, 60), ["58*60: 8*6=48 8, 5*6+4=30+4=34 348, so 3480"]),
        (
            times(25, 13),
            [
                "25*10=250",
                "25*3: 5*3=15 5, 2*3+1=6+1=7 75",
                "250+75: 0+5=5 5, 5+7=12 25, 2+1=3 325",
            ],
        ),
        (times(-4, 12), ["12*4: 2*4=8 8, 1*4=4 48", "-4*12=-48"]),
        (times(0, 345), ["345*0=0"]),
        (over(36, 12), ["36: 3/1 about 3, 12*3: 2*3=6 6, 1*3=3 36=36", "36/12=3"]),
        (
            over(1426, 23),
            [
                "142: 14/2 about 7, 23*7: 3*7=21 1, 2*7+2=14+2=16 161>142, 23*6: 3*6=18 8, 2*6+1=12+1=13 138<142, "
                "142-138: 2-8<0 12-8=4 4, 4-3-1=0 04, 1-1=0 004, so 4",
                "46: 4/2 about 2, 23*2: 3*2=6 6, 2*2=4 46=46",
                "1426/23=62",
            ],
        ),
        (
            over(1230, -12)[1:],
            [
                "3<12: 0",
                "30: 3/1 about 3, 12*3: 2*3=6 6, 1*3=3 36>30, 12*2: 2*2=4 4, 1*2=2 24<30, "
                "30-24: 0-4<0 10-4=6 6, 3-2-1=0 06, so 6",
                "1230/-12=-103 rounded down",
            ],
        ),
        (over(-12, 4), ["-12/4=-3"]),
        (over(632, 8), ["632/8: 63=56+7=8*7+7, 72=72+0=8*9+0, so 79"]),
        (over(-633, 8), ["633/8: 63=56+7=8*7+7, 73=72+1=8*9+1, so 79", "-633/8=-80 rounded down"]),
        (over(7, -2), ["7/-2=-4 rounded down"]),
    ],
)
def test_long_products_and_quotients_go_digit_by_digit(lines: list[str], expected: list[str]):
    assert lines == expected


def test_expressions_say_what_is_left_after_each_operation():
    entry = {"answer": "-27", "metadata": {"expression": "( ( -9 - 6 ) - -( -3 * 4 ) ) * 2 / 2"}}
    assert basic_arithmetic(entry) == [
        "((-9-6)+(-3*4))*2/2",
        "-9-6=-15",
        "(-15+(-3*4))*2/2",
        "-3*4=-(3*4)",
        "3*4=12",
        "(-15-12)*2/2",
        "-15-12: 15+12: 5+2=7 7, 1+1=2 27, so -27",
        "-27*2/2",
        "-27*2=-(27*2)",
        "27*2: 7*2=14 4, 2*2+1=4+1=5 54",
        "-54/2=-(54/2)",
        "54/2: 5=4+1=2*2+1, 14=14+0=2*7+0, so 27",
    ]


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("-( -( 3 ) ) - -4", "7"),
        ("-9 * -1", "9"),
        ("( ( 5 ) )", "5"),
        ("8 - ( 2 - 9 ) * -3", "-13"),
        ("-( 2 * -3 )", "6"),
    ],
)
def test_signs_that_meet_are_made_one(expression: str, value: str):
    entry = {"answer": value, "metadata": {"expression": expression}}
    basic_arithmetic(entry)  # which raises where it comes to something else


@pytest.mark.parametrize("dataset", ["chain_sum", "basic_arithmetic", "time_intervals", "simple_equations"])
def test_the_levels_behind_the_default_settings_are_worked_too(dataset: str):
    task = GymTask(dataset)
    for level in range(task.levels):
        problem = draw(task, "train", level, 0)
        try:
            assert task.grade(problem, task.work(problem)).passed
        except Unworked:
            assert dataset == "time_intervals"  # across the change of years, or the dataset's own rounding


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (total(146, 577), "146+577: 6+7=13 3, 4+7+1=12 23, 1+5+1=7 723"),
        (total(977, 627), "977+627: 7+7=14 4, 7+2+1=10 04, 9+6+1=16 1604"),
        (total(62, -80), "62-80: 80-62: 0-2<0 10-2=8 8, 8-6-1=1 18, so -18"),
        (total(105, -98), "105-98: 5-8<0 15-8=7 7, 0-9-1<0 10-9-1=0 07, 1-1=0 007, so 7"),
        (total(7, 1215), "7+1215: 1215+7: 5+7=12 2, 1+1=2 22, then 1222"),
        (total(-82, 35), "-82+35: 82-35: 2-5<0 12-5=7 7, 8-3-1=4 47, so -47"),
        (total(-20, -47), "-20-47: 20+47: 0+7=7 7, 2+4=6 67, so -67"),
        (total(5, -9), "5-9=-4"),
        (total(345, 0), "345+0=345"),
    ],
)
def test_sums_and_differences_in_columns(line: str, expected: str):
    assert line == expected


def test_columns_come_to_what_they_should(seed: int):
    draw = random.Random(seed)
    for _ in range(3000):
        a, b = (draw.choice((1, -1)) * draw.randrange(10 ** draw.randrange(1, 6)) for _ in range(2))
        left, right = abs(a), draw.randrange(10) * 10 ** draw.randrange(4)
        for text, value in ((total(a, b), a + b), (by_digit(left, right), left * right)):
            assert re.split("[ =]", text)[-1] == str(value), text
            for sides in equations(text):
                assert len({eval(side) for side in sides}) == 1, text


def test_a_solution_that_comes_to_something_else_is_none():
    entry = {"question": "", "answer": "7", "metadata": {"expression": "2 + 3"}}
    with pytest.raises(Unworked, match="came to 5 where the answer is 7"):
        work("chain_sum", entry)
    with pytest.raises(Unworked, match="nobody has written how sudoku is worked"):
        work("sudoku", entry)


def test_settings_of_a_dataset_stand_behind_its_name():
    task = find_task("gym:countdown:min_numbers=3:max_numbers=3")
    assert (task.name, task.levels) == ("gym:countdown:min_numbers=3:max_numbers=3", 1)
    numbers = [draw(task, "train", 0, i).meta["entry"]["metadata"]["numbers"] for i in range(5)]
    assert {len(each) for each in numbers} == {3}
    assert find_task("countdown:min_numbers=3:max_numbers=3").name == task.name
    for name, says in {
        "countdown:min_number=3": "has no setting 'min_number=3'; did you mean min_numbers",
        "countdown:min_numbers": "has no setting 'min_numbers'; did you mean min_numbers\\? \\(write NAME=VALUE\\)",
        "countdown:min_numbers=9:max_numbers=3": "refuses these settings",
        "countdown:min_numbers=many": "refuses these settings",
        "countdow:min_numbers=3": "did you mean countdown",
    }.items():
        with pytest.raises(UnknownTask, match=says):
            find_task(name)


@pytest.mark.parametrize(
    ("note", "worked"),
    [
        ("46*3-12=126", ["46*3: 6*3=18 8, 4*3+1=12+1=13 138", "138-12: 8-2=6 6, 3-1=2 26, then 126"]),
        ("3*2=6", ["3*2=6"]),
        ("1/3*9=3", ["1/3*9=3"]),  # not of whole numbers
        ("16 * .5=8", ["16*.5=8"]),
        ("20%*50=10", ["20%*50=10"]),
        ("7/2=3.5", ["7/2=3.5"]),  # not rounded down
    ],
)
def test_calculations_of_word_problems_are_worked(note: str, worked: list[str]):
    solution, answer = f"So <<2+2=4>>4. That is $<<{note}>>.", note.partition("=")[2]
    assert words.gsm8k({"solution": solution}, answer) == ["2+2=4", *worked]
    with pytest.raises(Unworked, match="came to"):  # the last one is not what was asked for
        words.gsm8k({"solution": solution}, answer + "0")


@pytest.mark.parametrize("note", ["12+30=43", "12+=12"])
def test_calculations_that_are_wrong_are_not_taught(note: str):
    with pytest.raises(Unworked):
        words.gsm8k({"solution": f"It comes to <<{note}>>."}, note.partition("=")[2])


def test_word_problems_are_worked_as_they_came(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    solution = "He did 48/2=<<48/2=24>>24 in May.\n\nSo  48+24 = <<48+24=72>>72.\n#### 72"
    path = jsonl(tmp_path / "train.jsonl", {"question": "How many?", "answer": solution})
    monkeypatch.setenv("FOLDER", str(tmp_path))
    task = find_task("gsm8k:$FOLDER/train.jsonl")
    problem = (*task.items("train"), *task.items("eval"))[0]
    reply = task.work(problem)
    thought = "48/2: 4=4+0=2*2+0, 8=8+0=2*4+0, so 24\n48+24: 8+4=12 2, 4+2+1=7 72"
    assert reply == PlainReply(thought, "The answer is 72.")
    assert task.grade(problem, reply).passed
    with pytest.raises(Unworked):
        task.work(Problem("How many?", "3"))
    with pytest.raises(Unworked, match="came without solutions"):
        find_task(f"jsonl:{path}").work(problem)
    monkeypatch.delenv("FOLDER")
    with pytest.raises(UnknownTask, match="set the environment variable FOLDER"):
        find_task("gsm8k:$FOLDER/train.jsonl")


def test_equations_of_svamp_are_worked(tmp_path: Path):
    row = {"Body": "Ann has 8 pens", "Question": "How many?", "Equation": "( ( 8.0 - 3.0 ) * 10.0 )", "Type": "x"}
    (tmp_path / "SVAMP.json").write_text(json.dumps([row | {"Answer": 50.0}] * 301))
    task = find_task(f"svamp:{tmp_path / 'SVAMP.json'}")
    assert task.work(task.items("eval")[0]) == PlainReply("8-3=5\n10*5=50", "The answer is 50.")


def thought(dataset: str, answer: str, question: str = "", **metadata: object) -> list[str]:
    reply = work(dataset, {"question": question, "answer": answer, "metadata": metadata})
    return reply.reasoning.splitlines()


def test_nothing_is_said_that_depends_on_what_was_not_said_yet():
    assert thought("letter_counting", "3", target_letter="o", span=["Look", "to"]) == [
        "Look: l o1 o2 k: 2",
        "to: t o3: 3",
    ]
    numbers, ordered = ["5.5", "-62.68", "71.3", "-67.9"], ["71.3", "5.5", "-62.68", "-67.9"]
    assert thought("number_sorting", str(ordered), original_numbers=numbers, direction="descending") == [
        "0:5.5 -6:-62.68 7:71.3 -6:-62.68,-67.9",
        "descending, from the largest down: 9 8 7:71.3 6 5 4 3 2 1 0:5.5 -0 -1 -2 -3 -4 -5 -6:-62.68,-67.9 -7 -8 -9",
    ]
    assert thought("countdown", "", numbers=[57, 40, 85], target=102) == [
        "57+40: 7+0=7 7, 5+4=9 97; 97+85: 7+5=12 2, 9+8+1=18 182, for 102 no; 97-85: 7-5=2 2, 9-8=1 12, for 102 no",
        "57-40: 7-0=7 7, 5-4=1 17; 85+17: 5+7=12 2, 8+1+1=10 102, for 102 yes",
    ]
    story = "Jack is married to Chloe. They have a child called Henry. Henry is married to Barbara."
    assert thought("family_relationships", "father", story, person1="Jack", person2="Henry") == [
        "Jack + Chloe: Henry",
        "Henry + Barbara",
        "Jack: a child of nobody here, married to Chloe",
        "Henry: a child of Jack + Chloe, married to Barbara",
        "Jack to Henry: Henry is a child of Jack, and Jack is a man",
    ]


@pytest.mark.parametrize("name", ["two_by_one", "spelling", "division", "asked", "sorting", "stories", "quotients"])
def test_the_recipe_s_own_tasks_are_worked(name: str):
    task = find_task(f"recipes/millet-135m/{name}.py")
    for seed in range(50):
        problem = task.sample(random.Random(seed), 0)
        assert task.grade(problem, task.work(problem)).passed
        wrong = str(int(problem.answer) + 1) if re.fullmatch(r"-?\d+", problem.answer) else problem.answer[1:]
        assert not task.grade(problem, PlainReply("", wrong)).passed


def test_quotients_say_their_digits_again():
    module = sys.modules[type(find_task("recipes/millet-135m/quotients.py")).__module__]
    assert module.quotient(782, 23) == [
        "78: 7/2 about 3, 23*3: 3*3=9 9, 2*3=6 69<78, 78-69: 8-9<0 18-9=9 9, 7-6-1=0 09, so 9; 3",
        "92: 9/2 about 4, 23*4: 3*4=12 2, 2*4+1=8+1=9 92=92; 4",
        "782/23=34",
    ]
    assert module.quotient(1040, 10)[1] == "4<10: 0"


@pytest.mark.parametrize(("line", "told"), [
    ("It has 4 x 12 = <<4*12=48>>48 legs.", ["It has 12*4: 2*4=8 8, 1*4=4 48 legs."]),
    ("He pays $20 - $8 = $<<20-8=12>>12.", ["He pays 20-8: 0-8<0 10-8=2 2, 2-1=1 12."]),
    ("That is 7 a page * 6 pages = <<7*6=42>>42 in all", ["That is 7 a page * 6 pages = 7*6=42 in all"]),
    ("It is 48 because 50-2=<<50-2=48>>48", ["50-2: 0-2<0 10-2=8 8, 5-1=4 48"]),  # said before it is found
    ("30/60=<<30/60=.5>>.5 of them", ["30/60=.5 of them"]),
    ("Of 574 x 2=<<574*2=1148>>1,148, half.", ["Of 574*2: 4*2=8 8, 7*2=14 48, 5*2+1=10+1=11 1148, half."]),
    ("So <<2+3=5>>5 and <<5+1=6>>6; done", ["So 2+3=5 and 5+1=6; done"]),
    ("All: 2+3+4=<<2+3+4=9>>9 cats", ["All: 2+3=5", "5+4=9 cats"]),
    ("Let x be that.", ["Let x be that."]),
])  # fmt: skip
def test_words_stand_around_what_is_calculated(line: str, told: list[str], school: ModuleType):
    assert school.told(line, []) == told


def test_a_step_that_is_not_shown_is_not_taught(school: ModuleType):
    with pytest.raises(Unworked, match="how it came to 1148"):
        school.told("because 287 x 4 = <<1148=1148>>1,148", [])


@pytest.fixture
def school(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    row = {"question": "How many?", "answer": "First,\n\n2+2=<<2+2=4>>4 cats.\nOr 4+1=<<4+1=5>>5.\n#### 5"}
    (tmp_path / "gsm8k").mkdir()
    jsonl(tmp_path / "gsm8k" / "train.jsonl", row)
    monkeypatch.setenv("MILLET_DATA", str(tmp_path))
    return sys.modules[type(find_task("recipes/millet-135m/school.py")).__module__]


def test_solutions_of_school_are_shown_with_their_words(school: ModuleType):
    task, plain = school.School(), find_task(school.SOURCE)
    assert task.name == plain.name, "or others would be drawn"
    (problem,) = (*task.items("train"), *task.items("eval"))
    assert task.work(problem) == PlainReply("First,\n2+2=4 cats.\nOr 4+1=5.", "The answer is 5.")
    assert task.grade(problem, task.work(problem)).passed
    for solution, why in (("", "came without"), ("<<2+2=4>>4", "came to 4")):
        with pytest.raises(Unworked, match=why):
            task.work(Problem("How many?", "5", {"solution": solution}))


def test_every_template_of_a_story_is_told_with_numbers_that_come_out_well():
    task = find_task("recipes/millet-135m/stories.py")
    module = sys.modules[type(task).__module__]
    rng = random.Random(0)
    for template in module._templates():
        for _ in range(5):
            problem = module._told(template, rng)
            assert problem, f"no numbers were found for {template.told!r}"
            assert not re.search(r"[{}\[\]|]", problem.prompt), problem.prompt
            assert problem.prompt.endswith("?")
            assert eval(problem.meta["expression"]) == int(problem.answer) > 0
            told = set(re.findall(r"\d+", problem.prompt))
            assert set(re.findall(r"\d+", problem.meta["expression"])) <= told | {"2", "3", "4", "5", "7", "10", "12"}
