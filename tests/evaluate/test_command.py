"""`millet eval`: what it prints and writes, its errors, Ctrl-C, and the command that it says reproduces it."""

from __future__ import annotations

import inspect
import json
import re
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from millet.cli.eval import evaluate, parse_tasks
from millet.errors import BadRequest
from millet.models.model import Model
from millet.reasoning.assistant import Assistant
from millet.tasks.task import Problem
from tests.evaluate.fakes import Broken, Sums
from tests.reasoning.toys import toy_model

ROOT = Path(__file__).parents[2]
QUICK = ("--problems", "4", "--max-tokens", "24", "--think", "6")


@pytest.fixture
def models(monkeypatch: pytest.MonkeyPatch) -> dict[str, Model]:
    """Two random networks by name, and one task."""
    found = {"one": toy_model(1), "two": toy_model(2)}
    for name, model in found.items():
        model.name = name

    monkeypatch.setattr("millet.cli.eval.ensure", lambda name: None)
    monkeypatch.setattr("millet.models.load.load", lambda name, quantize=None: found[name])
    monkeypatch.setattr("millet.tasks.find.find_task", lambda name: Sums())
    return found


def run(*words: str) -> Any:
    app = typer.Typer()
    app.command()(evaluate)
    return CliRunner().invoke(app, words)


def test_a_table_with_intervals(models: Any) -> None:
    result = run("one", "--tasks", "sums", "--levels", "0,2", "--k", "2", *QUICK)
    assert result.exit_code == 0, result.output
    for text in ("one", "pass@1", "pass@2", "majority@2", "sums, level 2", "mean", "0.0%", "0.0–60.2"):
        assert text in result.stdout
    assert "less" not in result.stdout


def test_for_programs(models: Any) -> None:
    result = run("one", "--tasks", "sums", "--json", *QUICK)
    found = json.loads(result.stdout)
    assert found["models"][0]["problems"] == 4
    assert found["models"][0]["tasks"][0]["figures"]["pass@1"]["value"] == 0.0
    assert found["settings"]["think"] == 6


def test_two_models_on_the_same_problems(models: Any) -> None:
    result = run("two", "--tasks", "sums", "--compare", "one", "--json", *QUICK)
    found = json.loads(result.stdout)
    assert [each["model"] for each in found["models"]] == ["one", "two"]
    longer = [each["mean"]["reply_tokens"]["value"] for each in found["models"]]
    assert found["difference"]["mean"]["reply_tokens"]["value"] == pytest.approx(longer[1] - longer[0])
    shown = run("two", "--tasks", "sums", "--compare", "one", *QUICK)
    assert "two less one" in shown.stdout


def test_what_an_earlier_run_wrote_compares_like_its_model(models: Any, tmp_path: Path) -> None:
    asked = ("--tasks", "sums", "--k", "2", "--levels", "0,1", *QUICK)
    both = json.loads(run("two", "--compare", "one", "--json", *asked).stdout)
    assert run("one", "--transcripts", str(tmp_path / "one.jsonl"), *asked).exit_code == 0
    stored = json.loads(run("two", "--compare", str(tmp_path / "one.jsonl"), "--json", *asked).stdout)
    assert [each["model"] for each in stored["models"]] == ["one", "two"]
    for found in (both, stored):
        for estimates in (found["difference"]["mean"], *(each["figures"] for each in found["difference"]["tasks"])):
            del estimates["tokens_per_second"]
    assert stored["difference"] == both["difference"]


def test_an_earlier_run_that_was_asked_otherwise_is_refused_at_once(
    models: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = tmp_path / "one.jsonl"
    run("one", "--tasks", "sums", "--seed", "5", "--transcripts", str(lines), *QUICK)
    monkeypatch.setattr("millet.models.load.load", lambda *args, **options: pytest.fail("loaded"))
    told = str(run("two", "--tasks", "sums", "--compare", str(lines), *QUICK).exception)
    assert told.endswith("one.jsonl was asked otherwise (--seed 5); ask the same way, or compare with the model itself")
    whole = lines.read_text().splitlines(keepends=True)
    lines.write_text("".join(whole[:-1]))
    told = str(run("two", "--tasks", "sums", "--seed", "5", "--compare", str(lines), *QUICK).exception)
    assert "was interrupted after 3 of 4 problems" in told
    nameless = json.dumps({key: value for key, value in json.loads(whole[0]).items() if key != "lineage"})
    for content in ("", "{}\n", "[]", "no JSON", nameless, '{"settings": {"problems": 0}, "model": ""}'):
        lines.write_text(content)
        refused = run("two", "--tasks", "sums", "--compare", str(lines), *QUICK).exception
        assert isinstance(refused, BadRequest)
    assert isinstance(run("two", "--tasks", "sums", "--compare", "gone.jsonl", *QUICK).exception, BadRequest)


def test_an_earlier_run_of_other_problems_or_weights_is_refused_at_once(
    models: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = tmp_path / "one.jsonl"

    def told(*words: str) -> str:
        with monkeypatch.context() as patch:
            patch.setattr("millet.models.load.load", lambda *args, **options: pytest.fail("loaded"))
            result = run("two", "--tasks", "sums", "--compare", str(lines), *QUICK, *words)
        assert isinstance(result.exception, BadRequest)
        return str(result.exception)

    def write(*words: str) -> None:
        assert run("one", "--tasks", "sums", "--transcripts", str(lines), *QUICK, *words).exit_code == 0

    write("--quantize", "q8")
    assert "one.jsonl was asked otherwise (--quantize q8)" in told()
    write()
    assert "one.jsonl was asked otherwise (no --quantize)" in told("--quantize", "q8")
    assert "one.jsonl has other tasks (sums); give the same --tasks and --levels" in told("--levels", "1")
    assert "has other tasks (sums)" in told("--levels", "0,1")
    write("--levels", "0,2")
    assert "has other tasks (sums; sums, level 2)" in told()
    assert run("two", "--tasks", "sums", "--levels", "2,0", "--compare", str(lines), *QUICK).exit_code == 0
    write()
    sample = Sums.sample

    def reworded(*given: Any) -> Problem:
        problem = sample(*given)
        return replace(problem, prompt=f"{problem.prompt} Now!")

    monkeypatch.setattr(Sums, "sample", reworded)
    assert "one.jsonl has other problems" in told()


def test_two_models_of_one_name_are_told_apart_with_a_lineage_each(
    models: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same stage of two runs; the first also by what it wrote."""
    for name in ("one", "two"):
        models[name].name, models[name].path = "2-grpo", tmp_path / name
        (tmp_path / name).mkdir()
        (tmp_path / name / "lineage.json").write_text(json.dumps({"sha256": f"of {name}"}))
    lines = str(tmp_path / "one.jsonl")
    assert run("one", "--tasks", "sums", "--transcripts", lines, *QUICK).exit_code == 0
    for compared in ("one", lines):
        words = ("two", "--tasks", "sums", "--compare", compared, *QUICK)
        found = json.loads(run(*words, "--json").stdout)["models"]
        assert [each["model"] for each in found] == [compared, "two"]
        assert [each["lineage"]["sha256"] for each in found] == ["of one", "of two"]
        assert f"two less {compared}" in run(*words).stdout
    alone = json.loads(run("two", "--tasks", "sums", "--json", *QUICK).stdout)["models"]
    assert [each["model"] for each in alone] == ["2-grpo"]


def test_the_command_it_tells_gives_the_same_figures(models: Any) -> None:
    first = json.loads(run("one", "--tasks", "sums", "--seed", "3", "--json", *QUICK).stdout)
    program, name, *words = shlex.split(first["command"])
    assert (program, name) == ("millet", "eval")
    again = json.loads(run(*words, "--json").stdout)
    assert again["settings"] == first["settings"]
    for figures in (first, again):
        for estimates in (figures["models"][0]["mean"], figures["models"][0]["tasks"][0]["figures"]):
            del estimates["tokens_per_second"]
    assert again["models"][0]["mean"] == first["models"][0]["mean"]


def test_files(models: Any, tmp_path: Path) -> None:
    page, lines = tmp_path / "report.html", tmp_path / "all.jsonl"
    result = run("one", "--tasks", "sums", "--report", str(page), "--transcripts", str(lines), "--k", "2", *QUICK)
    assert result.exit_code == 0, result.output
    assert page.read_text().startswith("<!DOCTYPE html>")
    assert len(lines.read_text().splitlines()) == 1 + 8
    assert sorted(tmp_path.iterdir()) == [lines, page]


def test_ctrl_c_shows_what_there_is(models: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    prepare = Assistant.prepare

    def interrupted(self: Any, messages: Any, **options: Any) -> Any:
        prepared = prepare(self, messages, **options)
        asked.append(messages)
        if len(asked) < 8:
            return prepared

        def start(on_news: Any) -> Any:
            raise KeyboardInterrupt

        return type("Interrupting", (), {"sampling": prepared.sampling, "start": staticmethod(start)})

    asked: list[Any] = []
    monkeypatch.setattr(Assistant, "prepare", interrupted)
    page = tmp_path / "report.html"
    words = ("--problems", "8", "--max-tokens", "24", "--think", "6", "--batch", "1")
    result = run("one", "--tasks", "sums", "--compare", "two", "--report", str(page), "--json", *words)
    assert result.exit_code == 130
    found = json.loads(result.stdout)
    assert len(found["models"]) == 1  # the second is not begun
    assert found["models"][0]["partial"]
    assert 6 <= found["models"][0]["problems"] < 8
    assert "interrupted after" in page.read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--tasks", ","), "names no task"),
        (("--tasks", "sums", "--levels", "9"), "levels 0 to 2"),
        (("--tasks", "sums", "--levels", "hard"), "--levels is 'hard'"),
        (("--tasks", "sums", "--think", "much"), "think is 'much'"),
        (("--tasks", "sums", "--report", "/nowhere/at/all.html"), "cannot be written"),
        (("--tasks", "sums", "--transcripts", "/"), "cannot be written"),
        (("--tasks", "sums", "--k", "4", "--temperature", "0"), "the same"),
    ],
)
def test_mistakes_are_told_before_a_model_is_loaded(
    models: Any, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], message: str
) -> None:
    monkeypatch.setattr("millet.models.load.load", lambda *args, **options: pytest.fail("loaded"))
    result = run("one", *words)
    assert isinstance(result.exception, BadRequest)
    assert message in str(result.exception)


def test_graders_that_fail_are_counted(models: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("millet.tasks.find.find_task", lambda name: Broken())
    found = json.loads(run("one", "--tasks", "broken", "--json", *QUICK).stdout)
    assert found["models"][0]["tasks"][0]["grader_failures"] == {"timeout": 0, "error": 4}
    assert "the grader of broken failed (4 x error)" in run("one", "--tasks", "broken", *QUICK).stdout


def test_the_documentation_names_every_option() -> None:
    section = (ROOT / "docs" / "teach.md").read_text().partition("\n## Evaluation\n")[2].partition("\n## ")[0]
    described = set(re.findall(r"`(--[a-z-]+)`", section))
    names = {name.replace("_", "-") for name in inspect.signature(evaluate).parameters} - {"model", "as-json"}
    assert described == {f"--{name}" for name in names} | {"--json"}


def test_levels(models: Any) -> None:
    assert [level for _, level in parse_tasks("sums", "all")] == [0, 1, 2]
    assert [level for _, level in parse_tasks("sums", "2, 0,2")] == [2, 0]
    assert len(parse_tasks("sums,sums", "0")) == 1
