import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

from millet.errors import MilletError, UnknownTask
from millet.tasks import find
from millet.tasks.find import find_task

ONE = """
from millet.tasks.task import Grade, Problem

class Ones:
    name, levels = "ones", 1
    def sample(self, rng, level): return Problem(str(rng.random()), "1")
    def grade(self, problem, reply): return Grade(1)
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "mine.py"
    path.write_text(text)
    return path


def test_reasoning_gym_with_and_without_its_prefix():
    assert find_task("chain_sum").name == find_task("gym:chain_sum").name == "gym:chain_sum"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("chain_sun", "there is no task 'chain_sun'; did you mean chain_sum"),
        ("gym:chain_sun", "did you mean chain_sum"),
        ("gsm8", "did you mean gsm8k:FILE"),
        ("xqzv", "`millet task list` shows those that there are"),
        ("gsm8k:nowhere.jsonl", "there is no file 'nowhere.jsonl'; write gsm8k: and the path of one"),
        ("nowhere.py", r"there is no file 'nowhere\.py'"),
        ("", "there is no task ''"),
    ],
)
def test_unknown_names_name_near_ones(name: str, message: str):
    with pytest.raises(UnknownTask, match=message):
        find_task(name)


def test_a_file_with_one_task(tmp_path: Path):
    path = written(tmp_path, ONE)
    assert find_task(str(path)).name == "ones"
    assert find_task(f"{path}:Ones").name == "ones"
    with pytest.raises(UnknownTask, match="has no task 'One'; did you mean Ones"):
        find_task(f"{path}:One")


def test_a_file_with_several_tasks_must_be_told_which(tmp_path: Path):
    path = written(tmp_path, ONE + "\nclass Twos(Ones):\n    name = 'twos'\nthree = Ones()\n")
    with pytest.raises(UnknownTask, match=r"has several tasks; name one, as in .*mine\.py:Ones: Ones, Twos, three"):
        find_task(str(path))
    assert find_task(f"{path}:Twos").name == "twos"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1\n", "has no task"),
        ("import nowhere_at_all\n", "cannot be loaded: ModuleNotFoundError"),
        ("def (\n", "cannot be loaded: SyntaxError"),
        (ONE + "    def __init__(self, more): pass\n", "cannot be made without arguments"),
        (ONE.replace('"ones", 1', '"ones", 0'), "has levels = 0; it must be a whole number of at least 1"),
    ],
)
def test_files_without_a_usable_task(tmp_path: Path, text: str, message: str):
    with pytest.raises(UnknownTask, match=message):
        find_task(str(written(tmp_path, text)))


def test_a_file_that_imports_one_beside_it_is_told_that_one_is_all_there_is(tmp_path: Path):
    (tmp_path / "helper_of_mine.py").write_text("x = 1\n")
    (tmp_path / "folder_of_mine").mkdir()
    for line in ("import helper_of_mine", "from folder_of_mine.part import x"):
        with pytest.raises(UnknownTask, match=r"(helper|folder)_of_mine, which lies beside it, but a task is one file"):
            find_task(str(written(tmp_path, f"{line}\n{ONE}")))


def test_entry_points(monkeypatch: pytest.MonkeyPatch):
    entry = EntryPoint("sums", "tests.tasks.toys:Sums", find.GROUP)

    def entry_points(group: str, **wanted: Any) -> list[EntryPoint]:
        return [entry] if group == find.GROUP and wanted.get("name", "sums") == "sums" else []

    monkeypatch.setattr(find, "entry_points", entry_points)
    assert find_task("sums").name == "sums"
    with pytest.raises(UnknownTask, match="did you mean sums"):
        find_task("summs")


def test_what_is_missing_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    monkeypatch.setitem(sys.modules, "math_verify", None)
    with pytest.raises(MilletError, match=r"pip install 'millet-llm\[teach\]'"):
        find_task("chain_sum")
    assert find_task(str(written(tmp_path, ONE))).name == "ones"
