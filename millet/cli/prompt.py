"""The line where a person writes: history, several lines, completion, and a Ctrl-C that clears before it leaves."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document
from prompt_toolkit.filters import Condition
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.input import Input
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.output import Output
from prompt_toolkit.output.defaults import create_output
from prompt_toolkit.utils import is_dumb_terminal

QUOTES = '"""'
LEAVING = "Press Ctrl-C again or Ctrl-D to leave."


class Prompt:
    """Asks for one message at a time, with what lines a terminal without any abilities gives."""

    def read(self) -> str | None:
        """The next message, never blank; None when the person leaves (Ctrl-D, or Ctrl-C twice)."""
        interrupted = False
        while True:
            try:
                text = self._line()
            except EOFError:
                return None
            except KeyboardInterrupt:
                if interrupted and not self._discarded():
                    return None
                interrupted = True
                print(LEAVING, file=sys.stderr)
                continue
            interrupted = False
            if message := joined(text):
                return message

    def _line(self) -> str:
        text = input("> ")
        while unfinished(text):
            text += "\n" + input("  ")
        return text

    def _discarded(self) -> str:
        """What was being written when Ctrl-C came."""
        return ""


class EditingPrompt(Prompt):
    """A prompt with history, several lines and completion. `commands`: what each (with its slash) does."""

    def __init__(
        self, commands: Mapping[str, str], history: Path, *, input: Input | None = None, output: Output | None = None
    ) -> None:
        if output is None and not sys.stdout.isatty():
            output = create_output(always_prefer_tty=True)  # the replies go to a file: ask on standard error
        self._session: PromptSession[str] = PromptSession(
            "> ",
            multiline=True,
            prompt_continuation="  ",
            history=private_history(history),
            completer=CommandCompleter(commands),
            complete_while_typing=Condition(lambda: self._session.default_buffer.text.startswith("/")),
            key_bindings=_bindings(),
            input=input,
            output=output,
        )

    def _line(self) -> str:
        return self._session.prompt()

    def _discarded(self) -> str:
        return self._session.default_buffer.text


def prompt_on_terminal(commands: Mapping[str, str], history: Path) -> Prompt:
    """The prompt that suits the terminal. A dumb one (in an editor, say) has a line editor of its own."""
    return Prompt() if is_dumb_terminal() else EditingPrompt(commands, history)


def unfinished(text: str) -> bool:
    r"""Whether Enter begins a new line: after a backslash, or inside a `\"\"\"` block."""
    if text.lstrip().startswith(QUOTES):
        return not text.rstrip().endswith(QUOTES) or text.strip() == QUOTES
    return text.endswith("\\") and not text.startswith("/")


def joined(text: str) -> str:
    r"""The message that was written: without the quotes of a block, and without backslashes at line ends.

    A space before a slash, which makes a message of what would be a command, stays.
    """
    if text.strip().startswith(QUOTES):
        return text.strip().removeprefix(QUOTES).removesuffix(QUOTES).strip("\n")
    return text.replace("\\\n", "\n").rstrip() if text.strip() else ""


def private_history(path: Path) -> History:
    """History in a file that only its owner may read; in memory where the file cannot be made."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600)
        try:
            os.fchmod(descriptor, 0o600)
        finally:
            os.close(descriptor)
    except OSError:
        return InMemoryHistory()
    return FileHistory(str(path))


class CommandCompleter(Completer):
    """Completes the first word of a line that begins with a slash."""

    def __init__(self, commands: Mapping[str, str]) -> None:
        self._commands = commands

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        text = document.text_before_cursor
        if text.startswith("/") and not any(map(str.isspace, text)):
            for command, what in self._commands.items():
                if command.startswith(text):
                    yield Completion(command, start_position=-len(text), display_meta=what)


def _bindings() -> KeyBindings:
    bindings = KeyBindings()

    @bindings.add("enter")
    def _(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        if buffer.complete_state and buffer.complete_state.current_completion:
            buffer.complete_state = None  # takes the chosen command; what belongs to it may follow
        elif unfinished(buffer.text):
            buffer.insert_text("\n")
        else:
            buffer.validate_and_handle()

    @bindings.add("escape", "enter")
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    return bindings
