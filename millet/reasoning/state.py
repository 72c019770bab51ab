"""The state machine of a reply, fed token by token: what is thought, what is answer, and what may come next.

It is the engine's hook and the reader of the text at once, so that what is cut off, counted and shown cannot disagree.

    OPENING   nothing but blank space yet; the model may open a thought
    THOUGHT   until the closing mark. An end token, an exhausted budget or a loop closes it in the model's own format
    LANDING   the thought is over and nothing of the answer is visible yet: ending is not allowed
    CONTENT   the answer, to the end, a stop string, or a loop

A reply has one thought, at its beginning. After that, marks that are tokens are text like any other, as an answer may
be about them. Where marks are spelled, a model that writes one behind its answer has lost the thread: the reply ends.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from enum import Enum
from typing import Literal, NamedTuple

from torch import Tensor

from millet.engine.hook import GO_ON, Verdict
from millet.models.tokenizer import TextStream, Tokenizer
from millet.reasoning.format import CLOSE, OPEN, ThinkFormat
from millet.reasoning.loop import CONTENT, THOUGHT, LoopGuard
from millet.reasoning.marks import scan
from millet.reasoning.masks import TokenMasks
from millet.reasoning.reply import Ending

BLANKS = 4  # tokens of blank space that may stand between a thought and its answer


class Phase(Enum):
    OPENING = "opening"
    THOUGHT = "thought"
    LANDING = "landing"
    CONTENT = "content"


class Piece(NamedTuple):
    """Text of one kind with the ids it came from; ids whose text is held back, or is none, come with later text."""

    kind: Literal["reasoning", "content"]
    text: str
    token_ids: tuple[int, ...]


class ReplyState:
    """One sample of one reply. The engine's thread calls `start` and `after`; another may `drain` meanwhile, and calls
    `finish` when the engine has reported the end.

    phase: where the prompt leaves off: THOUGHT where it opened one, OPENING where the model may, else CONTENT.
    budget: tokens that a thought may have before it is closed; 0 lets none begin, None sets no limit.
    room: tokens of the whole reply after which a thought is closed, so that the answer fits in.
    stop: strings that end the content; they, and what follows them, are no part of it.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        think: ThinkFormat,
        masks: TokenMasks,
        *,
        phase: Phase,
        end_ids: frozenset[int],
        budget: int | None = None,
        room: int,
        stop: tuple[str, ...] = (),
    ) -> None:
        self.thought_ended: Ending | None = None
        self.reasoning_tokens = 0
        self.thought_seconds = 0.0
        self._tokenizer = tokenizer
        self._think = think
        self._masks = masks
        self._phase = phase
        self._end_ids = end_ids
        self._budget = budget
        self._room = room
        self._stop = stop
        self._pieces: deque[Piece] = deque()
        self._ids: list[int] = []  # of the present phase's kind, not handed out yet
        self._text = TextStream(tokenizer)
        self._held = ""  # text that may be part of a mark or a stop string, or blank space at the edge of a thought
        self._begun = False  # the thought has visible text
        self._forced = 0  # ids still to come of a closing that was forced
        self._stopped = False
        self._num_tokens = 0
        self._num_thought = 0
        self._num_landing = 0
        self._guard = LoopGuard(THOUGHT if phase is Phase.THOUGHT else CONTENT)
        self._thought_began: float | None = None

    def start(self) -> Verdict:
        return Verdict(allow=self._allowed())

    def after(self, token_id: int) -> Verdict:
        if token_id in self._end_ids:
            if self._phase is Phase.THOUGHT:
                return self._close("model")  # the engine drops the end token
            self._ids.append(token_id)
            return GO_ON
        forced = self._forced > 0
        self._take(token_id)
        if self._stopped:
            return Verdict(end="stop")
        if forced:
            self._forced -= 1
        elif self._guard.push(token_id):
            return self._close("loop") if self._phase is Phase.THOUGHT else Verdict(end="loop")
        elif self._phase is Phase.THOUGHT and self._exhausted():
            return self._close("budget")
        return Verdict(allow=self._allowed())

    def finish(self) -> None:
        """After the last token: hand out what was held back. A mark that was never completed is dropped, as is half a
        character; a stop string that was never completed is text."""
        if self._phase is Phase.THOUGHT:
            self._end_thought(Phase.THOUGHT)
            return
        if not self._begins_stray():
            self._emit("content", self._held)
        self._flush("content")

    def drain(self) -> Iterator[Piece]:
        """Take out the pieces that are ready."""
        while self._pieces:
            yield self._pieces.popleft()

    def _take(self, token_id: int) -> None:
        """One more token that stays in the reply and is no end."""
        self._ids.append(token_id)
        self._num_tokens += 1
        self._num_thought += self._phase is Phase.THOUGHT
        self._num_landing += self._phase is Phase.LANDING
        if self._phase is Phase.THOUGHT and self._thought_began is None:
            self._thought_began = time.perf_counter()
        if self._phase is Phase.OPENING and token_id == self._think.open_id:
            self._begin_thought()
        elif self._phase is Phase.THOUGHT and token_id == self._think.close_id:
            self._end_thought(Phase.LANDING)
            self._text = TextStream(self._tokenizer)  # half a character before the mark is lost
        elif self._phase is Phase.THOUGHT and token_id == self._think.open_id and not self._begun:
            pass  # the model opens the thought that its prompt had opened already
        else:
            self._read(self._text.push(token_id))

    def _begin_thought(self) -> None:
        self._phase = Phase.THOUGHT
        self._guard = LoopGuard(THOUGHT)
        self._thought_began = time.perf_counter()

    def _end_thought(self, phase: Phase) -> None:
        self._flush("reasoning")
        if phase is Phase.LANDING:
            self.thought_ended = self.thought_ended or "model"
        if self._thought_began is not None:
            self.thought_seconds = time.perf_counter() - self._thought_began
        self._phase = phase
        self._guard = LoopGuard(CONTENT)
        self._held = ""

    def _exhausted(self) -> bool:
        return self._num_tokens >= self._room or (self._budget is not None and self._num_thought >= self._budget)

    def _close(self, why: Ending) -> Verdict:
        """Force the model's own closing. Half a mark or half a character before it is dropped from the text."""
        self.thought_ended = why
        self._held = ""
        self._text = TextStream(self._tokenizer)
        self._forced = len(self._think.closing)
        return Verdict(force=self._think.closing)

    def _allowed(self) -> Tensor | None:
        """Mask over the next token."""
        if self._phase is Phase.OPENING and (self._budget == 0 or self._num_tokens >= self._room):
            return self._masks.no_thought
        if self._phase is Phase.LANDING and not self._forced:
            return self._masks.visible if self._num_landing >= BLANKS else self._masks.no_end
        return None

    def _read(self, text: str) -> None:
        """More text; the phases follow each other, so one text may go through several of them."""
        self._held += text
        if self._phase is Phase.OPENING:
            self._read_opening()
        if self._phase is Phase.THOUGHT:
            self._read_thought()
        if self._phase in (Phase.LANDING, Phase.CONTENT):
            self._read_content()

    def _read_opening(self) -> None:
        text = self._held.lstrip()
        if self._think.spelled and text.startswith(OPEN):
            self._held = text.removeprefix(OPEN)
            self._begin_thought()
        elif text and not (self._think.spelled and OPEN.startswith(text)):
            self._phase = Phase.CONTENT

    def _read_thought(self) -> None:
        if not self._begun:
            self._held = self._held.lstrip()
            while self._think.spelled and self._held.startswith(OPEN):
                self._held = self._held.removeprefix(OPEN).lstrip()
            if not self._held or (self._think.spelled and OPEN.startswith(self._held)):
                return
            self._begun = True
        text, mark, rest = scan(self._held, (CLOSE,) if self._think.spelled else ())
        shown = text.rstrip()
        self._emit("reasoning", shown)
        if mark is None:
            self._held = text[len(shown) :] + rest
        else:
            self._end_thought(Phase.LANDING)
            self._held = rest

    def _read_content(self) -> None:
        while not self._stopped:
            if self._phase is Phase.LANDING:
                self._held = self._held.lstrip()
            text, found, self._held = scan(self._held, (*self._stop, *self._strays()))
            self._emit("content", text)
            if text or (found is None and not self._begins_stray()):
                self._phase = Phase.CONTENT  # also where all is held back: an end would turn half a stop into text
            if found is None:
                return
            if found in self._stop or self._phase is Phase.CONTENT:
                self._stopped = True
                self._held = ""

    def _strays(self) -> tuple[str, ...]:
        """Marks that are no part of the content: passed over before its first word, and its end after that."""
        return (OPEN, CLOSE) if self._think.spelled and self.thought_ended is not None else ()

    def _begins_stray(self) -> bool:
        """Nothing is held back, or what may become a mark that is left out."""
        return not self._held or any(mark.startswith(self._held) for mark in self._strays())

    def _emit(self, kind: Literal["reasoning", "content"], text: str) -> None:
        if text:
            self._hand_out(kind, text)

    def _flush(self, kind: Literal["reasoning", "content"]) -> None:
        """The end of a kind: hand out the ids that stand for no text."""
        if self._ids:
            self._hand_out(kind, "")

    def _hand_out(self, kind: Literal["reasoning", "content"], text: str) -> None:
        if kind == "reasoning":
            self.reasoning_tokens += len(self._ids)
        self._pieces.append(Piece(kind, text, tuple(self._ids)))
        self._ids.clear()
