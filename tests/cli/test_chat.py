"""`millet chat`: the prompt, the commands, and the whole program in a pseudo-terminal with a fake assistant."""

from __future__ import annotations

import io
import json
import re
import stat
import subprocess
import sys

import pytest
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput
from rich.console import Console

from millet.cli import chat as chat_module
from millet.cli.chat import COMMANDS, Chat
from millet.cli.conversation import Conversation
from millet.cli.prompt import EditingPrompt, joined, private_history, unfinished
from millet.cli.render import view_on
from millet.errors import UnknownModel
from tests.cli.fakes import FakeAssistant
from tests.cli.pseudo_terminal import ROOT, PseudoTerminal

ENTER, ALT_ENTER, CTRL_C, CTRL_D, UP, TAB = "\r", "\x1b\r", "\x03", "\x04", "\x1b[A", "\t"


@pytest.fixture
def read(tmp_path):
    """Reads messages from keys pressed."""

    def read(keys: str, messages: int = 1):
        with create_pipe_input() as pipe:
            pipe.send_text(keys)
            prompt = EditingPrompt(COMMANDS, tmp_path / "history", input=pipe, output=DummyOutput())
            return [prompt.read() for _ in range(messages)]

    return read


class TestPrompt:
    def test_enter_sends(self, read):
        assert read("hello there" + ENTER) == ["hello there"]

    def test_alt_enter_begins_a_line(self, read):
        assert read("one" + ALT_ENTER + "two" + ENTER) == ["one\ntwo"]

    def test_backslash_begins_a_line(self, read):
        assert read("one\\" + ENTER + "two" + ENTER) == ["one\ntwo"]

    def test_a_quoted_block_ends_with_its_quotes(self, read):
        assert read('"""one' + ENTER + ENTER + "  two" + ENTER + '"""' + ENTER) == ["one\n\n  two"]

    def test_a_pasted_text_is_one_message(self, read):
        assert read("\x1b[200~one\r\ntwo\r\n\x1b[201~" + ENTER) == ["one\ntwo"]

    def test_blank_messages_are_not_sent(self, read):
        assert read(ENTER + "  " + ENTER + "x" + ENTER) == ["x"]

    def test_ctrl_c_clears_the_line(self, read):
        assert read("wrong" + CTRL_C + "right" + ENTER) == ["right"]

    def test_ctrl_c_twice_leaves(self, read):
        assert read(CTRL_C + CTRL_C) == [None]
        assert read("text" + CTRL_C + CTRL_C) == [None]

    def test_ctrl_c_twice_with_text_between_does_not_leave(self, read):
        assert read("a" + CTRL_C + "b" + CTRL_C + "c" + ENTER) == ["c"]

    def test_ctrl_d_leaves_only_on_an_empty_line(self, read):
        assert read(CTRL_D) == [None]
        assert read("ab" + CTRL_D + ENTER) == ["ab"]

    def test_up_brings_back_messages_of_earlier_conversations(self, read):
        assert read("first" + ALT_ENTER + "line" + ENTER + "second" + ENTER, 2) == ["first\nline", "second"]
        assert read(UP + UP + UP + ENTER) == ["first\nline"]

    def test_history_is_private_even_if_it_was_not(self, tmp_path):
        path = tmp_path / "home" / "history"
        private_history(path)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        path.chmod(0o644)
        private_history(path)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600

    def test_no_place_for_history_is_no_reason_to_stop(self, tmp_path):
        (tmp_path / "file").write_text("")
        private_history(tmp_path / "file" / "history").append_string("kept in memory")

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("a\\", True),
            ("a\\\nb", False),
            ("/save a\\", False),
            ('"""', True),
            ('"""a', True),
            ('"""a"""', False),
            ('"""a\n"""', False),
            ('a """', False),
            ("", False),
        ],
    )
    def test_unfinished(self, text, expected):
        assert unfinished(text) is expected

    @pytest.mark.parametrize(
        ("text", "expected"),
        [("a\\\nb", "a\nb"), ('"""\n  a\n"""', "  a"), (" /x", " /x"), ("  \n ", ""), ('""""""', "")],
    )
    def test_joined(self, text, expected):
        assert joined(text) == expected


class TestCommands:
    @pytest.fixture
    def assistant(self):
        return FakeAssistant()

    @pytest.fixture
    def talk(self, assistant, tmp_path, monkeypatch):
        """Sends lines to a chat on a pipe; what was printed is returned, and the chat is at `talk.chat`."""
        monkeypatch.chdir(tmp_path)
        out = io.StringIO()
        console = Console(file=out, width=200)
        chat = Chat(assistant, Conversation(), {"think": "on", "max_tokens": 40}, view_on(console, console), console)

        def talk(*lines: str) -> str:
            begin = len(out.getvalue())
            pending = iter(lines)
            chat.run(type("Script", (), {"read": lambda self: next(pending, None)})())
            return out.getvalue()[begin:]

        talk.chat = chat
        return talk

    def test_a_conversation(self, talk, assistant):
        printed = talk("2+2?", "sure?")
        assert printed.count("<think>\nLet me see.\n</think>\n\nIt is **4**.\n") == 2
        assert assistant.calls[1][0] == [
            {"role": "user", "content": "2+2?"},
            {"role": "assistant", "content": "It is **4**."},
            {"role": "user", "content": "sure?"},
        ]

    def test_think_is_handed_on(self, talk, assistant):
        assert "think: 64" in talk("/think 64", "a", "/think off", "b")
        assert [arguments["think"] for _, arguments in assistant.calls] == [64, "off"]

    @pytest.mark.parametrize("mode", ["maybe", "-1", "1.5", "²"])
    def test_wrong_think_is_one_line_and_changes_nothing(self, talk, mode):
        printed = talk(f"/think {mode}")
        assert printed.count("\n") == 1
        assert "must be off, auto, on, or a number" in printed
        assert talk.chat.options["think"] == "on"

    def test_unknown_command_names_the_nearest(self, talk, assistant):
        assert "did you mean /retry?" in talk("/rety")
        assert "there is no command /xyzzy; /help lists all" in talk("/xyzzy now")
        assert assistant.calls == []

    def test_a_space_makes_a_message_of_a_command(self, talk, assistant):
        talk(" /exit is what?")
        assert assistant.calls[0][0][0]["content"] == "/exit is what?"

    def test_help_lists_every_command(self, talk):
        printed = talk("/help")
        assert all(command in printed for command in COMMANDS)

    def test_every_listed_command_exists(self, talk, monkeypatch):
        monkeypatch.setattr(chat_module, "open_assistant", lambda name, view, quantize=None: FakeAssistant())
        for command in COMMANDS:
            assert "there is no command" not in talk(command)

    def test_exit_leaves(self, talk, assistant):
        talk("/exit", "never asked")
        assert assistant.calls == []

    def test_new_forgets_all_but_the_system_message(self, talk, assistant):
        talk.chat.conversation.system = "Be brief."
        talk("a", "/new", "b")
        assert [message["content"] for message in assistant.calls[1][0]] == ["Be brief.", "b"]

    def test_retry_replaces_the_reply_and_changes_the_seed(self, talk, assistant):
        assistant.replies = [("", "one"), ("", "two")]
        talk.chat.options["seed"] = 7
        talk("a", "/retry")
        assert [call[0] for call in assistant.calls] == [[{"role": "user", "content": "a"}]] * 2
        assert [call[1]["seed"] for call in assistant.calls] == [7, 8]
        assert [turn.answer.content for turn in talk.chat.conversation.turns] == ["two"]

    def test_a_failed_retry_keeps_the_old_reply(self, talk, assistant):
        talk("a")
        assistant.context = 0
        assert "too long" in talk("/retry")
        assert talk.chat.conversation.turns[0].answer.content == "It is **4**."

    def test_retry_of_nothing(self, talk):
        assert "no question" in talk("/retry")

    def test_save(self, talk, tmp_path):
        assert "nothing to save" in talk("/save a.md")
        assert "saved to a b.md" in talk("q", "/save a b.md")
        assert "exists" in talk("/save a b.md")
        assert "saved to a b.md" in talk("/save! a b.md")
        assert "neither .md nor .json" in talk("/save a.txt")
        assert "needs the name" in talk("/save")
        assert [path.name for path in tmp_path.iterdir()] == ["a b.md"]

    def test_model_switches_and_keeps_the_conversation(self, talk, assistant, monkeypatch):
        other = FakeAssistant(name="other")
        monkeypatch.setattr(chat_module, "open_assistant", lambda name, view, quantize=None: other)
        assert "model: other" in talk("a", "/model other", "b")
        assert assistant.closed
        assert [message["content"] for message in other.calls[0][0]] == ["a", "It is **4**.", "b"]
        assert [turn.answer.model for turn in talk.chat.conversation.turns] == ["toy", "other"]

    def test_unknown_model_keeps_the_old_one(self, talk, assistant, monkeypatch):
        def unknown(name, view):
            raise UnknownModel(f"no model is called {name!r}; `millet models` lists them")

        monkeypatch.setattr(chat_module, "open_assistant", unknown)
        assert "no model is called 'x'" in talk("/model x", "a")
        assert len(assistant.calls) == 1
        assert not assistant.closed

    def test_ctrl_c_while_a_model_loads_keeps_the_old_one(self, talk, assistant, monkeypatch):
        def interrupted(name, view):
            raise KeyboardInterrupt

        monkeypatch.setattr(chat_module, "open_assistant", interrupted)
        talk("/model other", "a")
        assert len(assistant.calls) == 1

    def test_ctrl_c_stops_the_reply_and_keeps_what_came(self, talk, assistant):
        assistant.interrupt_after = 5
        printed = talk("a", "/save c.md")
        assert "Let me see.\n</think>\n\nIt is\n" in printed
        assert "stopped" in printed
        assert assistant.open_streams == 0
        turn = talk.chat.conversation.turns[0]
        assert turn.answer.stopped
        assert turn.answer.content == "It is"
        assistant.interrupt_after = None
        talk("go on")
        assert [message["content"] for message in assistant.calls[1][0]] == ["a", "It is", "go on"]

    @pytest.mark.parametrize("counts", [True, False])
    def test_a_conversation_longer_than_the_context_drops_its_oldest_turns(self, talk, assistant, counts):
        assistant.context = 100
        if not counts:  # then it is the assistant who finds that the prompt is too long
            assistant.encode = lambda text: []
        printed = talk("1" * 20, "2" * 20, "3" * 20)
        assert printed.count("it no longer sees the oldest turn.") == 1
        assert [message["content"][0] for message in assistant.calls[2][0]] == ["2", "I", "3"]
        assert len(talk.chat.conversation.turns) == 3

    def test_a_question_longer_than_the_context_is_one_line_and_does_not_stay(self, talk, assistant):
        assistant.context = 30
        printed = talk("short", "x" * 31, "short")
        assert "the prompt is too long" in printed
        assert [turn.question for turn in talk.chat.conversation.turns] == ["short", "short"]


PROGRAM = """
from millet.cli import chat
from tests.cli.fakes import FakeAssistant
long = "# Title\\n\\n" + " ".join(f"word{n}" for n in range(400))
assistant = FakeAssistant(("Two and two.", "It is **4**."), ("Hm.", long), ("", "The end" + " ." * 20), pace=0.01)
chat.open_assistant = chat.answer_once.__globals__["open_assistant"] = lambda name, view, quantize=None: assistant
chat.chat()
"""


def prompting(text: str) -> bool:
    """Whether the screen's last line is an empty prompt."""
    return text.split("\n")[-1] == ">"


class TestProgram:
    def test_in_a_terminal(self, tmp_path):
        with PseudoTerminal(PROGRAM, MILLET_HOME=str(tmp_path)) as terminal:
            terminal.wait_for(prompting)
            terminal.press("2+2?" + ENTER)
            text = terminal.wait_for("tokens/s")
            assert re.search(r"> 2\+2\?\n\nTwo and two\.\nThought for 0\.\d s, 3 tokens\n\nIt is 4\.\n6 tokens, ", text)

            terminal.press("more" + ENTER)
            terminal.wait_for("word20")
            terminal.press(CTRL_C)
            text = terminal.wait_for(prompting)
            assert "^C" not in text
            assert re.search(r"word\d+\n\d+ tokens, \d+\.\d tokens/s, stopped\n\n>$", text)

            terminal.press("last" + ENTER)
            terminal.wait_for("The end")
            terminal.press("typed ahead")
            text = terminal.wait_for("> typed ahead")
            assert text.count("typed ahead") == 1

            terminal.press(CTRL_C)
            terminal.wait_for("Press Ctrl-C again")
            terminal.press("/sa")
            terminal.wait_for("write the conversation")
            terminal.press(TAB)
            terminal.wait_for("> /save")
            terminal.press(ENTER + f" {tmp_path}/c.json" + ENTER)
            terminal.wait_for("saved to")
            terminal.press("/exit" + ENTER)
            assert terminal.exit_code() == 0
            assert b"Traceback" not in terminal.raw
        answers = [m for m in json.loads((tmp_path / "c.json").read_text())["messages"] if m["role"] == "assistant"]
        assert [answer["finish_reason"] for answer in answers] == ["stop", "cancelled", "stop"]
        assert answers[1]["content"].startswith("# Title\n\nword0 word1")
        history = tmp_path / "chat_history"
        assert stat.S_IMODE(history.stat().st_mode) == 0o600
        assert "+2+2?" in history.read_text()

    def test_ctrl_c_twice_at_the_prompt_leaves(self, tmp_path):
        with PseudoTerminal(PROGRAM, MILLET_HOME=str(tmp_path)) as terminal:
            terminal.wait_for(prompting)
            terminal.press("half a line" + CTRL_C)
            terminal.wait_for("Press Ctrl-C again")
            terminal.press(CTRL_C)
            assert terminal.exit_code() == 0

    def test_on_a_dumb_terminal(self, tmp_path):
        with PseudoTerminal(PROGRAM, MILLET_HOME=str(tmp_path), TERM="dumb") as terminal:
            terminal.wait_for(prompting)
            terminal.press("2+2?" + ENTER)
            terminal.wait_for("tokens/s")
            terminal.press("/exit" + ENTER)
            assert terminal.exit_code() == 0
            assert b"\x1b" not in terminal.raw
            assert b"\r\n<think>\r\nTwo and two.\r\n</think>\r\n\r\nIt is **4**.\r\n" in terminal.raw

    def test_piped(self, tmp_path):
        run = subprocess.run(
            [sys.executable, "-c", PROGRAM],
            input="What is\n2+2?\n",
            env={"PATH": "", "MILLET_HOME": str(tmp_path), "FORCE_COLOR": "1"},
            capture_output=True,
            text=True,
            cwd=ROOT,
            check=False,
        )
        assert run.stderr == ""
        assert run.stdout == "<think>\nTwo and two.\n</think>\n\nIt is **4**.\n"
        assert run.returncode == 0
        assert list(tmp_path.iterdir()) == []
