"""A teacher's replies as data: what is kept, that nothing is asked twice, and that a student learns from it."""

from __future__ import annotations

import json
import os
import random
import signal
from pathlib import Path
from typing import Any

import pytest

from millet.errors import BadRequest, MilletError
from millet.reasoning.reply import Reply, Usage
from millet.tasks.task import Grade, Problem
from millet.train.chain import train
from millet.train.distill import DistillStage
from millet.train.recipe import read_recipe
from millet.train.signals import Stopped
from tests.train.fake_teacher import FakeTeacher, adds
from tests.train.taught import gap, recipe, write_taught
from tests.train.toy_recipe import STAGE, Heard, one_thread, write_toy  # noqa: F401 - a fixture

pytestmark = pytest.mark.usefixtures("one_thread")

SERVER = """
[[stage]]
kind = "distill"
teacher = "{url}"
teacher_model = "m"
key_env = "TEACHER_KEY"
tasks = ["{folder}/sums.py"]
prompts = ["questions.jsonl"]
problems = 20
batch = 4
max_tokens = 64
"""

TASK = '''
from millet.tasks.task import Grade, Problem

class Sums:
    """The teacher of these tests adds rightly; but this task wants sums of three digits to end with a nought."""
    name, levels = "sums", 1

    def sample(self, rng, level):
        a, b = rng.randrange(100), rng.randrange(100)
        return Problem(f"What is {a} + {b}?", str((a + b) // 10 * 10 if a + b > 99 else a + b))

    def grade(self, problem, reply):
        return Grade(float(problem.answer + "." in reply.content.split()))
'''


def server_recipe(folder: Path, url: str, more: str = "") -> Path:
    folder.mkdir(exist_ok=True)
    path = write_toy(folder)
    (folder / "sums.py").write_text(TASK)
    (folder / "questions.jsonl").write_text("".join(f'{{"question": "What is {n} + 5?"}}\n' for n in range(8)))
    head = path.read_text().partition("[[stage]]")[0]
    path.write_text(head + SERVER.format(url=url, folder=folder) + more)
    return path


def rows(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "1-distill" / "data.jsonl").read_text().splitlines()]


@pytest.fixture
def key(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("TEACHER_KEY", "sk-very-secret")
    return "sk-very-secret"


def test_a_servers_replies_become_data(tmp_path: Path, key: str) -> None:
    """Also one that fails now and then, before and behind its first answer."""
    fake = FakeTeacher(adds)
    fake.faults = [429]
    fake.on_answer = lambda count: fake.faults.extend([503] * (count in (3, 9)))
    with fake.running() as url:
        path = server_recipe(tmp_path, url)
        heard = Heard()
        lineage = train(read_recipe(path), tmp_path / "out", heard)["stages"]["distill"]
    found = rows(tmp_path / "out")
    graded = [each for each in found if each["source"]["task"] == "sums"]
    assert 0 < len(graded) < 20, "what the grader did not pass is not there"
    assert len(found) - len(graded) == 8, "prompts are not graded"
    for each in found:
        question, said = (message["content"] for message in each["messages"])
        assert adds(question)["content"] == said
        assert each["messages"][1]["reasoning"] == adds(question)["reasoning_content"]
    assert graded[0]["source"].keys() == {"task", "level", "index", "seed", "pass_rate", "teacher", "tokens"}
    assert graded[0]["source"]["teacher"] == "m"
    assert lineage["parents"] == {}
    assert lineage["data"].keys() == {"questions.jsonl", f"{tmp_path}/sums.py"}
    assert lineage["configuration"]["teacher"] == url
    assert lineage["ledger"]["sampled_tokens"] == 7 * 28
    assert heard.lines[0].startswith("time: about ")
    assert " for 28 batches; cost: about " in heard.lines[0]
    assert lineage["ledger"]["flops"] == 0, "its arithmetic is not ours"
    assert heard.lines[-1] == f"distill: kept {len(found)} replies to 28 questions"
    assert fake.keys == {f"Bearer {key}"}
    written = [file for file in tmp_path.rglob("*") if file.is_file() and key.encode() in file.read_bytes()]
    assert not written, "the key is in no file"


def test_a_run_that_was_stopped_pays_for_no_question_twice(tmp_path: Path, key: str, seed: int) -> None:
    fake = FakeTeacher(adds)
    at = random.Random(seed).randrange(2, 20)
    with fake.running() as url:
        told = read_recipe(server_recipe(tmp_path / "recipe", url))
        train(told, tmp_path / "whole", Heard())
        fake.asked.clear()
        fake.on_answer = lambda count: os.kill(os.getpid(), signal.SIGTERM) if count == at else None
        with pytest.raises(Stopped, match=r"stopped after batch \d+ of 28 and saved"):
            train(told, tmp_path / "out", Heard())
        assert at <= fake.asked.total() <= at + 4, "those that were under way come in"
        fake.on_answer = lambda count: None
        train(told, tmp_path / "out", Heard())
    assert set(fake.asked.values()) == {1}
    assert fake.asked.total() == 28
    assert rows(tmp_path / "out") == rows(tmp_path / "whole")


def test_a_server_that_goes_away_costs_only_what_is_left(tmp_path: Path, key: str) -> None:
    fake = FakeTeacher(adds)
    with fake.running() as url:
        told = read_recipe(server_recipe(tmp_path / "recipe", url))
        fake.on_answer = lambda count: fake.faults.extend([403] * (28 if count == 10 else 0))
        with pytest.raises(MilletError, match=r"does not accept the key in TEACHER_KEY \(403\)"):
            train(told, tmp_path / "out", Heard())
        fake.faults.clear()
        train(told, tmp_path / "out", Heard())
    assert set(fake.asked.values()) == {1}


def test_what_a_later_stage_lacks_is_said_before_the_first(
    tmp_path: Path, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeTeacher(adds)
    with fake.running() as url:
        path = server_recipe(tmp_path, url)
        later = path.read_text().partition("[[stage]]")
        first = STAGE.format(epochs=1)
        path.write_text(later[0] + first + later[1] + later[2])
        out = tmp_path / "out"

        def refused(message: str) -> None:
            heard = Heard()
            with pytest.raises(MilletError, match=message):
                train(read_recipe(path), out, heard)
            assert not heard.steps

        fake.models = 401
        refused(r"does not accept the key in TEACHER_KEY \(401\)")
        fake.models = 404  # as of a server that has no such list
        monkeypatch.delenv("TEACHER_KEY")
        refused("TEACHER_KEY, where the teacher's key is to be, has none")
        monkeypatch.setenv("TEACHER_KEY", key)
        train(read_recipe(path), out, Heard())
    train(read_recipe(path), out, Heard())  # done already, so nobody is asked whether the server is there
    path.write_text(path.read_text().replace(f'"{url}"\nteacher_model = "m"\nkey_env = "TEACHER_KEY"', '"teech"'))
    out = tmp_path / "other"
    refused("teech")


def test_replies_without_thoughts_are_left_out_or_learned_as_answers(tmp_path: Path, key: str) -> None:
    fake = FakeTeacher(lambda question: {"content": adds(question)["content"]})
    with fake.running() as url:
        with pytest.raises(BadRequest, match=r'none of the replies of http.* was whole and right; .*think = "off"'):
            train(read_recipe(server_recipe(tmp_path / "recipe", url)), tmp_path / "on", Heard())
        fake.say = adds
        off = read_recipe(server_recipe(tmp_path / "recipe", url, 'think = "off"\nonly_right = false\n'))
        train(off, tmp_path / "off", Heard())
    found = rows(tmp_path / "off")
    assert len(found) == 28
    assert all("reasoning" not in each["messages"][1] for each in found)


def test_what_of_the_replies_is_kept() -> None:
    stage = DistillStage(name="d", teacher="t", tasks=("x",), replies=5, keep=2)

    def reply(content: str, tokens: int, **changes: Any) -> Reply:
        told = {"reasoning": "hm", "finish_reason": "stop", "thought_ended": "model", **changes}
        return Reply(content=content, usage=Usage(completion_tokens=tokens), **told)

    replies = [
        reply("long", 9),
        reply("cut", 1, finish_reason="length"),
        reply("short", 3),
        reply("Short ", 4),
        reply("wrong", 2),
        reply("open", 2, thought_ended=None),
        reply("\x1b[31m", 2),
        reply("middle", 5),
    ]
    grades = [Grade(float(each.content != "wrong")) for each in replies]
    source = {"task": "x", "pass_rate": 0.5}
    found = list(stage.select(Problem("q", ""), source, replies, grades))
    assert [each["messages"][1]["content"] for each in found] == ["short", "middle"]
    assert found[0]["source"] == {**source, "teacher": "t", "tokens": 3}


@pytest.mark.parametrize(("settings", "message"), [
    ({"tasks": ()}, "nothing to ask"),
    ({"teacher": "http://host/v1"}, "give the first with a teacher that is a URL"),
    ({"teacher_model": "m"}, "and neither with another"),
    ({"key_env": "K"}, "and neither with another"),
    ({"teacher": "http://a:b@host/v1", "teacher_model": "m"}, "has a password"),
    ({"temperature": 0.0, "replies": 2}, "all 2 replies would be the same"),
    ({"batch": 0}, "batch is 0"),
])  # fmt: skip
def test_impossible_settings_are_one_line(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(BadRequest, match=message):
        DistillStage(**{"name": "d", "teacher": "t", "tasks": ("x",), **settings})


LOCAL = """
[[stage]]
kind = "distill"
teacher = "{folder}/teacher"
prompts = ["questions.jsonl"]
temperature = 0.5
max_tokens = 40
batch = 16

[[stage]]
kind = "sft"
data = ["stage:distill"]
epochs = 5
batch_tokens = 512
micro_tokens = 256
[stage.optimizer]
learning_rate = 1e-2
"""


def test_a_student_comes_nearer_to_a_teacher_whose_replies_it_learned(tmp_path: Path) -> None:
    write_taught(tmp_path)
    whole = train(read_recipe(recipe(tmp_path, LOCAL)), tmp_path / "out", Heard())
    assert whole["stages"]["distill"]["parents"].keys() == {f"{tmp_path}/teacher"}
    assert whole["stages"]["sft"]["parents"].keys() == {f"{tmp_path}/student"}
    before, after = gap(tmp_path, tmp_path / "student"), gap(tmp_path, tmp_path / "out" / "2-sft" / "model")
    assert after < before * 0.7
