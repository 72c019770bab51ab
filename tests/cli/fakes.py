"""An assistant that says what it is told to, and a terminal emulator that shows what a person would see."""

from __future__ import annotations

import io
import random
import re
import time
from dataclasses import dataclass, field
from typing import Any

import pyte
from rich.console import Console

from millet.cli.terminal import THEME
from millet.errors import PromptTooLong
from millet.reasoning.reply import Event, Usage


def words(text: str) -> list[str]:
    """The text in pieces as a model would give it: a word with the blank space before it."""
    return re.findall(r"\s*\S+|\s+$", text)


def events(reasoning: str, content: str, finish_reason: str = "stop", thought_ended: str | None = "model") -> Any:
    thought, answer = words(reasoning), words(content)
    for word in thought:
        yield Event("reasoning", word, (1,))
    for word in answer:
        yield Event("content", word, (1,))
    usage = Usage(10, len(thought) + len(answer), len(thought))
    yield Event("finish", finish_reason=finish_reason, usage=usage, thought_ended=thought_ended)


def shredded(text: str, seed: float) -> list[str]:
    """The text in random pieces of 1 to 9 characters."""
    generator = random.Random(seed)
    pieces = []
    while text:
        cut = generator.randint(1, 9)
        pieces.append(text[:cut])
        text = text[cut:]
    return pieces


@dataclass
class Terminal:
    """An emulated terminal of a size, with a console that writes to it. `raw` keeps every character written."""

    width: int = 80
    height: int = 24
    raw: str = ""
    environment: dict[str, str] = field(default_factory=lambda: {"TERM": "xterm-256color"})

    def __post_init__(self) -> None:
        self.screen = pyte.HistoryScreen(self.width, self.height, history=10_000, ratio=0.001)
        self.screen.set_mode(pyte.modes.LNM)
        self._stream = pyte.Stream(self.screen)
        self.console = Console(
            file=_File(self),
            force_terminal=True,
            width=self.width,
            height=self.height,
            theme=THEME,
            markup=False,
            emoji=False,
            highlight=False,
            _environ=self.environment,
        )

    def write(self, text: str) -> None:
        self.raw += text
        self._stream.feed(text)

    def resize(self, width: int) -> None:
        """Change the width; lines that no longer fit are folded, as terminals do."""
        lines = self.lines()
        self.width = width
        self.screen = pyte.HistoryScreen(width, self.height, history=10_000, ratio=0.001)
        self.screen.set_mode(pyte.modes.LNM)
        self._stream = pyte.Stream(self.screen)
        self._stream.feed("\n".join(lines))
        self.console.width = width

    def lines(self) -> list[str]:
        """Everything that was shown, what has scrolled away included, without blank lines at the end."""
        rows = [*self.screen.history.top, *(self.screen.buffer[y] for y in range(self.screen.lines))]
        text = [self._row(row) for row in rows]
        while text and not text[-1]:
            text.pop()
        return text

    def _row(self, row: Any) -> str:
        return "".join(row[x].data for x in range(self.screen.columns)).rstrip()


class _File(io.TextIOBase):
    """The file a console writes to; `raw` text and screen are the terminal's."""

    encoding = "utf-8"

    def __init__(self, terminal: Terminal) -> None:
        self._terminal = terminal

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self._terminal.write(text)
        return len(text)


class FakeAssistant:
    """Says the replies it was given, in turn, the last one again and again. Remembers what it was asked.

    context: tokens, of which a character is one and a message has ten more. pace: seconds from event to event.
    interrupt_after: Ctrl-C comes after so many events.
    """

    def __init__(self, *replies: tuple[str, str], name: str = "toy", context: int = 1000, pace: float = 0.0) -> None:
        self.replies = list(replies) or [("Let me see.", "It is **4**.")]
        self.name = name
        self.context = context
        self.pace = pace
        self.interrupt_after: int | None = None
        self.calls: list[tuple[list[dict[str, str]], dict[str, Any]]] = []
        self.open_streams = 0
        self.closed = False

    @property
    def engine(self) -> FakeAssistant:
        return self

    @property
    def model(self) -> FakeAssistant:
        return self

    @property
    def tokenizer(self) -> FakeAssistant:
        return self

    @property
    def context_length(self) -> int:
        return self.context

    def encode(self, text: str) -> list[str]:
        return list(text)

    def __enter__(self) -> FakeAssistant:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        self.closed = True

    def stream(self, messages: list[dict[str, str]], **arguments: Any) -> Any:
        if sum(len(message["content"]) for message in messages) + 10 * len(messages) >= self.context:
            raise PromptTooLong("the prompt is too long; shorten it")
        self.calls.append((messages, dict(arguments)))
        return self._reply(*(self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]))

    def _reply(self, *reply: str) -> Any:
        self.open_streams += 1
        try:
            for count, event in enumerate(events(*reply)):
                if count == self.interrupt_after:
                    raise KeyboardInterrupt
                time.sleep(self.pace)
                yield event
        finally:
            self.open_streams -= 1
