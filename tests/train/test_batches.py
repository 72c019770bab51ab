"""Data in batches: what is told of each, whatever happened before, and what is said of those to come."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from millet.errors import MilletError
from millet.train import batches as module
from millet.train.batches import FOLDER, Batch, Batches, gather
from millet.train.chain import train
from millet.train.ledger import Ledger, Prices
from millet.train.metrics import read_log
from millet.train.recipe import read_recipe
from millet.train.signals import Stopped
from millet.train.stage import Context
from tests.train.toy_recipe import Heard
from tests.train.toy_start import TOY_START

WHOLE = 4


def conversation(number: int) -> dict[str, Any]:
    turns = [{"role": "user", "content": f"What is {number}?"}, {"role": "assistant", "content": f"{number}."}]
    return {"messages": turns, "source": {"task": "numbers"}}


def run(folder: Path, count: int = WHOLE, at_once: int = 1, prices: Prices | None = None) -> Heard:
    """Of WHOLE batches so many more, each of an hour; the last ones first."""
    folder.mkdir(exist_ok=True)
    heard, batches = Heard(), Batches(folder / FOLDER, WHOLE)

    def work(stopping: Callable[[], bool]) -> Iterator[Batch]:
        left = [number for number in reversed(range(WHOLE)) if number not in batches]
        for number in left[:count]:
            made = [conversation(number)] if number else []
            yield batches.write(number, made, {"asked": 1, "right": number / 10}, Ledger(wall_seconds=3600.0))

    context = Context(folder, "", 0, "cpu", prices or Prices(), heard, folder, {})
    gather(batches, work, "numbers", context, at_once)
    return heard


def logs(folder: Path) -> tuple[list[Any], list[Any]]:
    metrics, samples = (read_log(folder / f"{name}.jsonl") for name in ("metrics", "samples"))
    return [(each["step"], each["right"], each["kept"]) for each in metrics], samples


def test_each_batch_is_told_once_however_the_run_before_ended(tmp_path: Path) -> None:
    run(tmp_path / "whole")
    expected = logs(tmp_path / "whole")
    assert expected[0] == [(1, 0.3, 1), (2, 0.2, 1), (3, 0.1, 1), (4, 0.0, 0)]
    first = {"step": 1, "task": "numbers", "question": "What is 3?", "thought": "", "reply": "3."}
    assert expected[1][0] == first
    assert [each["step"] for each in expected[1]] == [1, 2, 3], "a batch of which nothing was kept has nothing to read"

    out = tmp_path / "out"
    with pytest.raises(Stopped, match="stopped after batch 2 of 4 and saved; run the same command to go on"):
        run(out, count=2)
    (out / "metrics.jsonl").write_bytes((out / "metrics.jsonl").read_bytes()[:-30])  # killed before it was written
    (out / "samples.jsonl").unlink()
    heard = run(out)
    assert (heard.begun, heard.steps) == ([("numbers", 2, 4)], [3, 4])
    assert logs(out) == expected


def test_time_and_money_of_all_are_said_after_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cores = Prices(cpu_core_hour=0).of(3600, gpu=False), Prices(cpu_core_hour=1).of(3600, gpu=False)
    assert cores[0] == 0 < cores[1]
    heard = run(tmp_path / "one", prices=Prices(cpu_core_hour=1))
    money = f"{4 * cores[1]:.2g} USD"
    assert heard.lines == [f"time: about 4 h 0 min for 4 batches; cost: about {money}"]
    assert run(tmp_path / "two", at_once=3, prices=Prices(cpu_core_hour=1)).lines == heard.lines
    assert run(tmp_path / "all", at_once=WHOLE).lines == [], "nothing is left to foretell"


def test_what_would_not_fit_on_the_disk_ends_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(tmp_path / "whole", at_once=WHOLE)
    last = max((tmp_path / "whole" / FOLDER).iterdir()).stat().st_size  # which is done first
    free = SimpleNamespace(free=(3 + 4) * last - 1)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: free)
    with pytest.raises(
        MilletError, match=r"needs about .* GB more and .* are free on that disk; make room and run the"
    ):
        run(tmp_path / "out")
    free.free += 1
    run(tmp_path / "other")
    assert run(tmp_path / "out").begun == [("numbers", 1, 4)], "what was there is kept"


TASK = """
from millet.tasks.task import Grade, PlainReply, Problem

class Doubles:
    name, levels = "doubles", 1

    def sample(self, rng, level):
        number = rng.randrange(10**6)
        return Problem(f"Twice {number}?", str(2 * number))

    def grade(self, problem, reply):
        if reply.content.endswith("0"):
            raise ValueError("not this one")
        return Grade(float(not reply.content.endswith("2")))

    def work(self, problem):
        return PlainReply("<b>Double</b> it.", problem.answer)
"""


class Stopping(Heard):
    def step(self, done: int, record: Mapping[str, Any]) -> None:
        super().step(done, record)
        if done == 2:
            os.kill(os.getpid(), signal.SIGTERM)


def test_the_report_has_curves_samples_and_what_it_has_cost_so_far(tmp_path: Path) -> None:
    (tmp_path / "doubles.py").write_text(TASK)
    recipe = tmp_path / "recipe.toml"
    stage = '[[stage]]\nkind = "worked"\ntasks = ["doubles.py"]\nproblems = 180\n'
    recipe.write_text(f'[model]\nbase = "{TOY_START}"\ndevice = "cpu"\n{stage}')
    with pytest.raises(Stopped):
        train(read_recipe(recipe), tmp_path / "out", Stopping())
    page = tmp_path / "out" / "1-worked" / "report.html"
    stopped = page.read_text()
    assert "stopped after 2 batches" in stopped
    assert "<th>wall seconds</th><td>0</td>" not in stopped
    heard = Heard()
    train(read_recipe(recipe), tmp_path / "out", heard)
    report = page.read_text()
    assert "<p>4 batches" in report
    for name in ("asked", "kept", "right", "seconds", "grader errors"):
        assert f"<figcaption>{name}</figcaption>" in report
    assert "<h3>Batch 1</h3>" in report
    assert "&lt;b&gt;Double&lt;/b&gt; it." in report
    records = read_log(page.with_name("metrics.jsonl"))
    assert [record["step"] for record in records] == [1, 2, 3, 4]
    assert [record["asked"] for record in records] == [50, 50, 50, 30]
    right, failed = (sum(record[name] for record in records) for name in ("kept", "grader_errors"))
    assert 0 < failed < 180 - right
    assert heard.lines[-1] == (
        f"doubles.py, level 0: {right} worked, {180 - right - failed} refused by its grader, {failed} could not be "
        f"graded and count as wrong (0 timeouts and {failed} errors of graders; see `millet task check`)"
    )
