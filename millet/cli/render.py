"""A reply on its way to the person: the thought dimmed and counted while it comes, then the answer as Markdown.

`LiveView` paints on a terminal; `PlainView` writes text alone, to a pipe, a file or a dumb terminal. `play` drives
either with the events of an assistant and returns what was said.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import asdict
from typing import TYPE_CHECKING, Protocol

from rich.console import Console
from rich.text import Text

from millet.cli.conversation import Answer, thought_summary
from millet.cli.markdown import Line, markdown_lines, split_finished, text_lines
from millet.cli.screen import Screen
from millet.cli.terminal import can_repaint, clean, no_echo

if TYPE_CHECKING:
    from millet.reasoning.assistant import Event, Reply

# A reply is painted at most this often, and painting takes at most this share of the time: the model needs the rest.
FRAME_SECONDS = 0.05
PAINT_SHARE = 0.1

_ENDINGS = {
    "length": "cut off at the limit of tokens",
    "loop": "ended because it repeated itself",
    "cancelled": "stopped",
}
_THOUGHT_ENDINGS = {"budget": "thought ended at its budget", "loop": "thought ended because it repeated itself"}


class View(Protocol):
    """Where a reply is shown."""

    def waiting(self, what: str) -> AbstractContextManager[object]:
        """Say what the person waits for, while nothing comes."""
        ...

    def add(self, kind: str, text: str, so_far: Answer) -> None:
        """Show more text of the "reasoning" or of the "content"; `so_far` includes it."""
        ...

    def end(self, answer: Answer) -> None:
        """Show the rest, and how it went."""
        ...


def view_on(console: Console, errors: Console, *, plain: bool = False) -> View:
    """The view that suits the console; `plain` keeps to text alone even on a terminal."""
    return PlainView(console, errors) if plain or not can_repaint(console) else LiveView(console)


def play(events: Generator[Event, None, None], view: View, model: str) -> Answer:
    """Show a reply while it comes. Ctrl-C stops it: the answer so far is returned, with finish reason "cancelled"."""
    recorder = _Recorder(model)
    try:
        with no_echo(), closing(events):
            with view.waiting("Reading…"):
                event = next(events, None)
            while event is not None:
                text = recorder.record(event)
                if text:
                    view.add(event.kind, text, recorder.answer)
                event = next(events, None)
    except KeyboardInterrupt:
        pass
    except BaseException:
        if recorder.answer.usage:
            view.end(recorder.answer)
        raise
    view.end(recorder.answer)
    return recorder.answer


def play_whole(make: Callable[[], Reply], view: View, model: str) -> Answer:
    """Show a reply that comes only as a whole, such as the winner of a vote. Ctrl-C gives an empty answer."""
    answer = Answer(model)
    try:
        with no_echo(), view.waiting("Thinking…"):
            reply = make()
    except KeyboardInterrupt:
        view.end(answer)
        return answer
    answer = Answer(
        model,
        reasoning=reply.reasoning.strip(),
        content=reply.content.strip(),
        finish_reason=reply.finish_reason,
        thought_ended=reply.thought_ended,
        usage=asdict(reply.usage),
        seconds=reply.seconds,
        thought_seconds=reply.thought_seconds,
        tokens_per_second=reply.usage.completion_tokens / reply.seconds if reply.seconds else None,
        vote_share=reply.vote_share,
    )
    for kind, text in (("reasoning", answer.reasoning), ("content", answer.content)):
        if text:
            view.add(kind, text, answer)
    view.end(answer)
    return answer


class _Recorder:
    """Puts events together to an answer, without blank space around thought and answer, and takes the times."""

    def __init__(self, model: str) -> None:
        self.answer = Answer(model)
        self._held = {"reasoning": "", "content": ""}  # blank space that is shown only if text follows
        self._begin = time.monotonic()
        self._first: float | None = None
        self._thought_begin: float | None = None
        self._later_tokens = 0  # that came after the first event: what decoding speed is measured on

    def record(self, event: Event) -> str:
        """Take one event; the text that is now to be shown is returned."""
        now = time.monotonic()
        answer = self.answer
        answer.seconds = now - self._begin
        if event.kind == "finish":
            self._finish(event)
            return ""
        if self._first is None:
            self._first = now
        else:
            self._later_tokens += len(event.token_ids)
            if now > self._first:
                answer.tokens_per_second = self._later_tokens / (now - self._first)
        _count(answer.usage, "completion_tokens", len(event.token_ids))
        if event.kind == "reasoning":
            self._thought_begin = now if self._thought_begin is None else self._thought_begin
            answer.thought_seconds = now - self._thought_begin
            _count(answer.usage, "reasoning_tokens", len(event.token_ids))
        return self._text(event)

    def _text(self, event: Event) -> str:
        before = self.answer.reasoning if event.kind == "reasoning" else self.answer.content
        text = self._held[event.kind] + event.text
        if not before:
            text = text.lstrip()
        shown = text.rstrip()
        self._held[event.kind] = text[len(shown) :]
        if event.kind == "reasoning":
            self.answer.reasoning += shown
        else:
            self.answer.content += shown
        return shown

    def _finish(self, event: Event) -> None:
        self.answer.finish_reason = event.finish_reason or "stop"
        self.answer.thought_ended = event.thought_ended
        self.answer.seconds = event.seconds
        self.answer.thought_seconds = event.thought_seconds
        if event.usage is not None:
            self.answer.usage = asdict(event.usage)


def _count(usage: dict[str, int], name: str, tokens: int) -> None:
    usage[name] = usage.get(name, 0) + tokens


def remark(answer: Answer) -> str:
    """How the reply went, in one line: "120 tokens, 25.1 tokens/s, stopped"."""
    tokens = answer.usage.get("completion_tokens", 0)
    parts = [f"{tokens} token{'' if tokens == 1 else 's'}"]
    if answer.tokens_per_second is not None:
        parts.append(f"{answer.tokens_per_second:.1f} tokens/s")
    if answer.vote_share is not None:
        parts.append(f"{answer.vote_share:.0%} of the replies agreed")
    parts += [_THOUGHT_ENDINGS[end] for end in [answer.thought_ended] if end in _THOUGHT_ENDINGS]
    parts += [_ENDINGS[end] for end in [answer.finish_reason] if end in _ENDINGS]
    return ", ".join(parts)


class LiveView:
    """A reply painted on a terminal as it comes; only its last paragraph or block is ever painted again."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._screen = Screen(console)
        self._kind: str | None = None
        self._open = ""  # text of the current kind that is not final on the screen
        self._above = False  # whether a block of this answer is final
        self._next_paint = 0.0

    def waiting(self, what: str) -> AbstractContextManager[object]:
        return self._console.status(Text(what, style="dim"), spinner_style="dim")

    def add(self, kind: str, text: str, so_far: Answer) -> None:
        if kind != self._kind:
            self._end_part(so_far)
            if self._kind == "content":
                self._screen.show([[]])
            self._kind = kind
        self._open += clean(text)
        begin = time.monotonic()
        if begin >= self._next_paint:
            self._paint(so_far)
            end = time.monotonic()
            self._next_paint = max(begin + FRAME_SECONDS, end + (end - begin) / PAINT_SHARE)

    def end(self, answer: Answer) -> None:
        self._end_part(answer)
        self._screen.show(text_lines(self._console, remark(answer), "dim"))
        self._kind = None

    def _paint(self, so_far: Answer) -> None:
        if self._kind == "reasoning":
            self._paint_thought(so_far)
        else:
            self._paint_answer()

    def _paint_thought(self, so_far: Answer) -> None:
        *paragraphs, self._open = self._open.split("\n")
        final = [line for paragraph in paragraphs for line in self._thought(paragraph) or [[]]]
        seconds, tokens = so_far.thought_seconds, so_far.usage.get("reasoning_tokens", 0)
        status = text_lines(self._console, thought_summary("Thinking", seconds, tokens), "dim italic")
        self._screen.show(final, [*self._thought(self._open), *status])

    def _paint_answer(self) -> None:
        blocks, self._open = split_finished(self._open)
        final: list[Line] = []
        for block in blocks:
            final += self._below(markdown_lines(self._console, block))
            self._above = self._above or bool(final)
        self._screen.show(final, self._below(markdown_lines(self._console, self._open)))

    def _below(self, lines: list[Line]) -> list[Line]:
        """The lines of a block, after a blank one where there is a block of the answer above."""
        return [[], *lines] if lines and self._above else lines

    def _end_part(self, so_far: Answer) -> None:
        """All of the present part is final; under a thought goes how long it took."""
        if self._kind == "reasoning":
            self._paint(so_far)
            summary = text_lines(self._console, so_far.thought_summary, "dim italic")
            self._screen.show([*self._thought(self._open), *summary, []])
        elif self._kind == "content":
            self._open += "\n"
            self._paint(so_far)
            self._screen.show(self._below(markdown_lines(self._console, self._open)))
        self._open, self._above = "", False

    def _thought(self, paragraph: str) -> list[Line]:
        return text_lines(self._console, paragraph, "dim")


class PlainView:
    """A reply as text alone: the thought between lines `<think>` and `</think>`, then the answer as it was written.

    Nothing else goes to the output. How it went goes to `errors`, if a person looks at it or the reply is incomplete.
    """

    def __init__(self, console: Console, errors: Console) -> None:
        self._file = console.file
        self._errors = errors
        self._kind: str | None = None

    def waiting(self, what: str) -> AbstractContextManager[object]:
        return nullcontext()

    def add(self, kind: str, text: str, so_far: Answer) -> None:
        if kind != self._kind:
            self._end_part()
            self._file.write("<think>\n" if kind == "reasoning" else "")
            self._kind = kind
        self._file.write(clean(text))
        self._file.flush()

    def end(self, answer: Answer) -> None:
        self._end_part(last=True)
        self._file.flush()
        if self._errors.file.isatty() or answer.finish_reason != "stop":
            self._errors.print(remark(answer), soft_wrap=True)

    def _end_part(self, last: bool = False) -> None:
        marks = {None: "", "reasoning": "\n</think>\n", "content": "\n"}
        self._file.write(marks[self._kind] + ("" if last or self._kind is None else "\n"))
        self._kind = None
