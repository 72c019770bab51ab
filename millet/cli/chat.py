"""`millet chat`: a conversation. Piped input is one question, answered once."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.text import Text

from millet.cli.ask import (
    DEFAULT_MODEL,
    INTERRUPTED,
    MaxTokensOption,
    ModelOption,
    QuantizeOption,
    SeedOption,
    SystemOption,
    TemperatureOption,
    ThinkOption,
    TopPOption,
    answer_once,
    open_assistant,
    parse_quantize,
    parse_think,
    reply_options,
    with_input,
)
from millet.cli.conversation import Conversation, Turn
from millet.cli.prompt import Prompt, prompt_on_terminal
from millet.cli.render import View, play, view_on
from millet.cli.terminal import clean, console
from millet.errors import BadRequest, MilletError, PromptTooLong
from millet.models.hub import home

if TYPE_CHECKING:
    from millet.reasoning.assistant import Assistant, Event, Options

COMMANDS = {
    "/think": "off | auto | on | N: whether the model thinks first, or for at most N tokens",
    "/model": "NAME: go on with another model",
    "/retry": "answer the last question again",
    "/save": "FILE.md or FILE.json: write the conversation to a new file (/save! overwrites)",
    "/new": "begin a new conversation",
    "/help": "this list",
    "/exit": "leave (as Ctrl-D does)",
}
WRITING = """\
Enter sends. Alt-Enter (Esc, then Enter) begins a new line; as does Enter after a backslash or in \"\"\"quotes\"\"\".
Ctrl-C stops a reply and keeps what came of it. A message that begins with a slash needs a space before it."""


def chat(
    model: ModelOption = DEFAULT_MODEL,
    quantize: QuantizeOption = None,
    think: ThinkOption = "on",
    max_tokens: MaxTokensOption = 2048,
    temperature: TemperatureOption = None,
    top_p: TopPOption = None,
    seed: SeedOption = None,
    system: SystemOption = None,
) -> None:
    """Talk with a model. Piped input is answered once: echo "..." | millet chat"""
    options, kept = reply_options(think, max_tokens, temperature, top_p, seed), parse_quantize(quantize)
    conversation = Conversation(system)
    out, errors = console(), console(stderr=True)
    if not sys.stdin.isatty():
        conversation.ask(with_input(None))
        view = view_on(out, errors, plain=True)
        answer = answer_once(model, conversation, options, view, quantize=kept)
        if answer.stopped:
            raise typer.Exit(INTERRUPTED)
        return
    view = view_on(out, errors)
    session = Chat(open_assistant(model, view, kept), conversation, options, view, out)
    out.print(Text(f"{session.assistant.model.name}. /help lists the commands.", style="dim"))
    try:
        session.run(prompt_on_terminal(COMMANDS, home() / "chat_history"))
    finally:
        session.assistant.close()


class Chat:
    """A conversation between a person and an assistant, and the commands that steer it."""

    def __init__(
        self, assistant: Assistant, conversation: Conversation, options: Options, view: View, out: Console
    ) -> None:
        self.assistant = assistant
        self.conversation = conversation
        self.options = options
        self._view = view
        self._out = out

    def run(self, prompt: Prompt) -> None:
        """Read and answer until the person leaves."""
        while (text := prompt.read()) is not None:
            try:
                if not text.startswith("/"):
                    self.reply(self.conversation.ask(text.strip()))
                elif not self.command(text):
                    return
            except MilletError as error:
                self._say(str(error), "red")
            except KeyboardInterrupt:  # while a model loads; a reply handles its own
                self._say("stopped")

    def command(self, text: str) -> bool:
        """Obey a slash command; False where it ends the conversation. Raises MilletError for one that is wrong."""
        name, _, argument = text.strip().partition(" ")
        argument = argument.strip()
        match name:
            case "/think":
                self._think(argument)
            case "/model":
                self._model(argument)
            case "/retry":
                self._retry()
            case "/save" | "/save!":
                self._save(argument, overwrite=name == "/save!")
            case "/new":
                self.conversation = Conversation(self.conversation.system)
                self._say("a new conversation")
            case "/help":
                self._help()
            case "/exit":
                return False
            case _:
                near = difflib.get_close_matches(name, COMMANDS, n=1, cutoff=0.5)
                hint = f"did you mean {near[0]}? " if near else ""
                raise BadRequest(f"there is no command {name}; {hint}/help lists all; as a message, put a space first")
        return True

    def reply(self, turn: Turn) -> None:
        """Let the assistant answer the turn, which is the last one; without a reply the turn does not stay."""
        before, turn.answer = turn.answer, None
        self._out.print()
        try:
            turn.answer = play(self._events(), self._view, self.assistant.model.name)
        finally:
            if turn.answer is None:
                turn.answer = before
                if before is None:
                    self.conversation.turns.remove(turn)
        self._out.print()

    def _events(self) -> Generator[Event, None, None]:
        """The reply's events. Where the conversation has outgrown the context, the oldest turns are left out."""
        before = self.conversation.forgotten
        while self._crowded() and self.conversation.forget_oldest():
            pass
        while True:
            try:
                events = self.assistant.stream(self.conversation.messages(), **self.options)
                break
            except PromptTooLong:
                if not self.conversation.forget_oldest():
                    raise
        if left_out := self.conversation.forgotten - before:
            turns = "oldest turn" if left_out == 1 else f"{left_out} oldest turns"
            self._say(f"The model's context is full: it no longer sees the {turns}.")
        return events

    def _crowded(self) -> bool:
        """Whether the messages leave less room than a reply may need, or than a quarter of the context."""
        encode = self.assistant.model.tokenizer.encode
        context = self.assistant.engine.context_length
        used = sum(len(encode(message["content"])) for message in self.conversation.messages())
        return used > context - min(self.options.get("max_tokens") or context, context // 4)

    def _think(self, mode: str) -> None:
        if mode:
            self.options["think"] = parse_think(mode)
        self._say(f"think: {self.options.get('think')}")

    def _model(self, name: str) -> None:
        if name:
            assistant = open_assistant(name, self._view)
            self.assistant.close()
            self.assistant = assistant
        self._say(f"model: {self.assistant.model.name}")

    def _retry(self) -> None:
        if not self.conversation.turns:
            raise BadRequest("there is no question to answer again; ask one first")
        if (seed := self.options.get("seed")) is not None:
            self.options["seed"] = seed + 1  # the same would give the same reply
        self.reply(self.conversation.turns[-1])

    def _save(self, path: str, overwrite: bool) -> None:
        if not path:
            raise BadRequest("/save needs the name of a file that ends in .md or .json")
        if not self.conversation.turns:
            raise BadRequest("there is nothing to save yet; ask something first")
        self.conversation.save(Path(path), overwrite=overwrite)
        self._say(f"saved to {path}")

    def _help(self) -> None:
        width = max(map(len, COMMANDS))
        for name, what in COMMANDS.items():
            self._out.print(f"{name:{width}}  {what}")
        self._say(WRITING)

    def _say(self, text: str, style: str = "dim") -> None:
        self._out.print(Text(clean(text), style=style))
