"""The command line as a whole: help that is quick, one line for an error, and the exit codes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import typer

from millet.cli import main as module
from millet.errors import BadWeights

ROOT = Path(__file__).parents[2]


def run(arguments: list[str], monkeypatch: pytest.MonkeyPatch, error: BaseException | None = None) -> int:
    """Runs the command line in this process; with `error`, `millet models` raises it."""

    def fail() -> None:
        raise error or AssertionError

    if error is not None:
        monkeypatch.setattr("millet.cli.pull.models", fail)
    with pytest.raises(SystemExit) as ended:
        module.main(arguments)
    assert isinstance(ended.value.code, int)
    return ended.value.code


def imported_by(arguments: list[str], name: str) -> bool:
    """Whether a fresh process that runs this command line ends with the module imported."""
    code = f"""
import sys
from millet.cli.main import main
try:
    main({arguments!r})
finally:
    print({name!r} in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    return {"True": True, "False": False}[done.stdout.splitlines()[-1]]


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_help_lists_every_command(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments, monkeypatch) == 0
    shown = capsys.readouterr().out
    assert all(f"{name} " in shown for name in module.COMMANDS)


@pytest.mark.parametrize("name", module.COMMANDS)
def test_every_command_has_help(name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([name, "--help"], monkeypatch) == 0
    assert f"millet {name}" in capsys.readouterr().out


def test_commands_import_only_what_they_need() -> None:
    assert not imported_by(["--help"], "torch")
    assert not imported_by(["models"], "torch")
    assert not imported_by(["models"], "millet.cli.chat")
    assert not imported_by(["models"], "httpx2")
    assert imported_by(["models"], "millet.cli.pull")


def test_version(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"], monkeypatch) == 0
    assert capsys.readouterr().out.startswith("millet ")


def test_error_is_one_line_and_exit_code_2(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["models"], monkeypatch, BadWeights("x.gguf is\ncut short; pull it again")) == 2
    assert capsys.readouterr().err == "millet: x.gguf is cut short; pull it again\n"


@pytest.mark.parametrize("arguments", [["--debug", "models"], ["models", "--debug"]])
def test_debug_shows_the_traceback(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments, monkeypatch, BadWeights("x.gguf is cut short")) == 2
    shown = capsys.readouterr().err
    assert shown.startswith("Traceback")
    assert shown.endswith("BadWeights: x.gguf is cut short\n")


def test_debug_after_two_dashes_is_an_argument(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["pull", "--", "--debug"], monkeypatch) == 2
    assert "no model is called '--debug'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["chatt"], "No such command 'chatt'"),
        (["pull", "--jsn"], "No such option: --jsn"),
        (["pull", "a", "b"], "unexpected extra argument"),
        (["bench", "engine", "--rounds", "many"], "Invalid value for '--rounds'"),
    ],
)
def test_wrong_usage_is_one_line(
    arguments: list[str], says: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments, monkeypatch) == 2
    shown = capsys.readouterr().err
    assert says in shown
    assert shown.count("\n") == 1
    assert "--help" in shown


@pytest.mark.parametrize("error", [KeyboardInterrupt(), typer.Abort()])
def test_interrupt_is_quiet(
    error: BaseException, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["models"], monkeypatch, error) == 130
    assert capsys.readouterr().err == ""


def test_exit_code_of_a_command_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(["models"], monkeypatch, typer.Exit(7)) == 7


def test_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("millet.cli.pull.models", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        module.main(["models"])


def test_reader_that_goes_away_is_no_error() -> None:
    code = "import sys; from millet.cli.main import main; sys.stdin.read(); main(['models', '--json'])"
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT,
    ) as process:
        assert process.stdin
        assert process.stdout
        assert process.stderr
        process.stdout.close()
        process.stdin.close()
        assert process.stderr.read() == b""
        assert process.wait() == module.BROKEN_PIPE


def test_ctrl_c_ends_a_real_process_quietly(tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    code = f"""
import pathlib, time
import millet.cli.pull
from millet.cli.main import main
def models():
    pathlib.Path({str(ready)!r}).touch()
    time.sleep(30)
millet.cli.pull.models = models
main(["models"])
"""
    with subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, cwd=ROOT) as process:
        while not ready.exists() and process.poll() is None:
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGINT)
        assert process.stderr
        assert process.stderr.read() == b""
        assert process.wait() == 130
