"""`millet ask`: where the question comes from, what is printed where, and the exit codes."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import typer
from typer.testing import CliRunner

from millet.cli import ask as ask_module
from millet.cli.ask import SilentView, answer_once, ask, open_assistant, parse_think, reply_options
from millet.cli.conversation import Conversation
from millet.errors import BadRequest, UnknownModel
from millet.reasoning.reply import Reply, Usage
from tests.cli.fakes import FakeAssistant
from tests.cli.pseudo_terminal import ROOT, PseudoTerminal

THOUGHT = "<think>\nLet me see.\n</think>\n\n"


@pytest.fixture
def assistant(monkeypatch):
    assistant = FakeAssistant()
    monkeypatch.setattr(ask_module, "open_assistant", lambda name, view, quantize=None: assistant)
    return assistant


@pytest.fixture
def run(assistant):
    app = typer.Typer()
    app.command()(ask)

    def run(*arguments, piped=""):
        return CliRunner().invoke(app, arguments, input=piped)

    return run


def question(assistant):
    return assistant.calls[0][0][-1]["content"]


def test_thought_and_answer_and_nothing_else(run, assistant):
    result = run("2+2?")
    assert (result.exit_code, result.stdout, result.stderr) == (0, THOUGHT + "It is **4**.\n", "")
    assert question(assistant) == "2+2?"
    assert assistant.closed


def test_question_from_standard_input(run, assistant):
    run(piped="\ufeffWhat is\n\n2+2?\n")
    assert question(assistant) == "What is\n\n2+2?"


def test_standard_input_is_added_to_the_question(run, assistant):
    run("What does this do?", piped="\n  def f():\n    pass\n")
    assert question(assistant) == "What does this do?\n\n  def f():\n    pass"


def test_input_that_is_not_utf8_is_not_fatal(run, assistant):
    run(piped=b"caf\xe9")
    assert question(assistant) == "caf\ufffd"


@pytest.mark.parametrize(("argument", "piped"), [((), ""), (("  ",), "\n \n")])
def test_no_question_is_one_line(run, assistant, argument, piped):
    result = run(*argument, piped=piped)
    assert isinstance(result.exception, BadRequest)
    assert "there is no question" in str(result.exception)
    assert "\n" not in str(result.exception)
    assert assistant.calls == []


def test_options_reach_the_assistant(run, assistant):
    run("q", "--think=64", "--max-tokens=99", "--temperature=0.5", "--top-p=0.8", "--seed=3", "--system=Brief.")
    messages, options = assistant.calls[0]
    assert messages[0] == {"role": "system", "content": "Brief."}
    assert options == {"think": 64, "max_tokens": 99, "temperature": 0.5, "top_p": 0.8, "seed": 3}


def test_a_person_sees_the_model_think_unless_told_otherwise(run, assistant):
    run("q")
    assert assistant.calls[0][1]["think"] == "on"
    assert "[default: on]" in run("--help").stdout


def test_json_is_one_object(run, assistant):
    answer = json.loads(run("q", "--json").stdout)
    assert answer.pop("seconds") >= 0
    assert answer.pop("thought_seconds") >= 0
    assert answer.pop("tokens_per_second") > 0
    assert answer == {
        "model": "toy",
        "reasoning": "Let me see.",
        "content": "It is **4**.",
        "finish_reason": "stop",
        "thought_ended": "model",
        "usage": {"prompt_tokens": 10, "completion_tokens": 6, "reasoning_tokens": 3, "cached_tokens": 0},
    }


def test_json_holds_control_characters_only_escaped(run, assistant):
    assistant.replies = [("", "a\x1b[31m\x9b漢")]
    result = run("q", "--json")
    assert result.stdout.isascii()
    assert "\x1b" not in result.stdout
    assert json.loads(result.stdout)["content"] == "a\x1b[31m\x9b漢"


def test_ctrl_c_prints_what_came_and_exits_130(run, assistant):
    assistant.interrupt_after = 4
    result = run("q")
    assert (result.exit_code, result.stdout) == (130, THOUGHT + "It\n")
    assert "stopped" in result.stderr
    assert assistant.open_streams == 0
    assert assistant.closed


def test_ctrl_c_with_json(run, assistant):
    assistant.interrupt_after = 4
    result = run("q", "--json")
    assert result.exit_code == 130
    answer = json.loads(result.stdout)
    assert (answer["content"], answer["finish_reason"]) == ("It", "cancelled")


def test_vote_shows_the_winner_and_its_share(run, assistant):
    asked = {}

    def chat(messages, **options):
        asked.update(options)
        usage = Usage(10, 30, 12, 0)
        return Reply("Hm.", " 4\n", "stop", usage, "model", 2.0, 1.0, 0.6, {"4": 3, "5": 2})

    assistant.chat = chat
    assert run("q", "--vote", "5").stdout == "<think>\nHm.\n</think>\n\n4\n"
    assert asked["vote"] == 5
    answer = json.loads(run("q", "--vote", "5", "--json").stdout)
    assert answer["vote_share"] == 0.6
    assert answer["tokens_per_second"] == 15.0


def test_ctrl_c_in_a_vote(run, assistant):
    def chat(messages, **options):
        raise KeyboardInterrupt

    assistant.chat = chat
    result = run("q", "--vote", "5")
    assert (result.exit_code, result.stdout) == (130, "")


@pytest.mark.parametrize("text", ["maybe", "-5", "1.5", "", "1e3", "٣"])
def test_wrong_think(run, text):
    with pytest.raises(BadRequest, match="must be off, auto, on, or a number of tokens"):
        parse_think(text)


def test_a_model_that_is_not_here_is_pulled_before_anything_is_loaded(monkeypatch):
    def ensure(name):
        raise UnknownModel(f"no model is called {name!r}")

    monkeypatch.setattr(ask_module, "ensure", ensure)
    monkeypatch.setitem(sys.modules, "millet.reasoning.assistant", None)
    with pytest.raises(UnknownModel, match="'nowhere'"):
        open_assistant("nowhere", SilentView())


def test_with_the_default_model(smollm2_path):
    conversation = Conversation()
    conversation.ask("What is the capital of France?")
    options = reply_options("off", 24, 0.0, None, 0)
    answer = answer_once(str(smollm2_path), conversation, options, SilentView(), quantize="off")
    assert "Paris" in answer.content
    assert (answer.reasoning, answer.finish_reason) == ("", "stop")
    assert answer.usage["completion_tokens"] > answer.usage["reasoning_tokens"] == 0
    assert answer.seconds > 0


PROGRAM = """
import sys, typer
from millet.cli import ask
from tests.cli.fakes import FakeAssistant
ask.open_assistant = lambda name, view, quantize=None: FakeAssistant(("Hm.", "word " * 500), pace=0.01)
sys.argv = ["ask", "q"]
typer.run(ask.ask)
"""


def test_on_a_terminal_ctrl_c_ends_it_with_130():
    with PseudoTerminal(PROGRAM) as terminal:
        terminal.wait_for("word word")
        terminal.press("\x03")
        assert terminal.exit_code() == 130
        assert "stopped" in terminal.text()
        assert "</think>" not in terminal.text()
        assert b"Traceback" not in terminal.raw


def test_a_reader_that_goes_away_is_no_traceback():
    run = subprocess.run(
        f"'{sys.executable}' -c '{PROGRAM}' </dev/null | head -c 20",
        shell=True,
        executable="/bin/sh",
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.stdout.startswith("<think>")
    assert "Traceback" not in run.stderr
    assert "Exception" not in run.stderr
