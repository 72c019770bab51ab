"""The state machine of a reply, fed token by token: what is thought, what is answer, and what may come next.

It is the engine's hook and the reader of the text at once, so that what is cut off, counted and shown cannot disagree.

    OPENING   nothing but blank space yet; the model may open a thought
    THOUGHT   until the closing mark. An end token, an exhausted budget or a loop closes it in the model's own format
    LANDING   the thought is over and nothing of the answer is visible yet: ending is not allowed
    CONTENT   the answer, to the end, a stop string, or a loop
    CALL      inside the call of a tool, which comes out whole or, if it is none, as content

A reply has one thought, at its beginning. After that, marks that are tokens are text like any other, as an answer may
be about them. Where marks are spelled, a model that writes one behind its answer has lost the thread: the reply ends.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Collection, Iterator
from enum import Enum
from typing import Literal, NamedTuple

from torch import Tensor

from millet.engine.hook import GO_ON, Verdict
from millet.models.tokenizer import TextStream, Tokenizer
from millet.reasoning.calls import CallFormat, read_call, without_marks
from millet.reasoning.format import CLOSE, OPEN, ThinkFormat
from millet.reasoning.grammar import Grammar
from millet.reasoning.loop import CONTENT, ENDLESS, THOUGHT, LoopGuard, Patience
from millet.reasoning.marks import scan
from millet.reasoning.masks import TokenMasks
from millet.reasoning.reply import Ending, ToolCall

BLANKS = 4  # tokens of blank space that may stand between a thought and its answer


Kind = Literal["reasoning", "content", "tool_call"]


class Phase(Enum):
    OPENING = "opening"
    THOUGHT = "thought"
    LANDING = "landing"
    CONTENT = "content"
    CALL = "call"


class Piece(NamedTuple):
    """Text of one kind with the ids it came from; ids whose text is held back, or is none, come with later text."""

    kind: Kind
    text: str
    token_ids: tuple[int, ...]
    call: ToolCall | None = None


class ReplyState:
    """One sample of one reply. The engine's thread calls `start` and `after`; another may `drain` meanwhile, and calls
    `finish` when the engine has reported the end.

    phase: where the prompt leaves off: THOUGHT where it opened one, OPENING where the model may, else CONTENT.
    budget: tokens that a thought may have before it is closed; 0 lets none begin, None sets no limit.
    room: tokens of the whole reply after which a thought is closed, so that the answer fits in.
    stop: strings that end the content; they, and what follows them, are no part of it.
    begun: the prompt leaves off in the middle of the thought's text.
    calls, names: how calls of tools are written, and what may be called; none are looked for without `calls`.
    grammar: the form that the content must have, from its first visible token on; must_call: it is that of a call.
    patient: bear any repetition, where a text that is there already is read.
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
        begun: bool = False,
        calls: CallFormat | None = None,
        names: Collection[str] = (),
        grammar: Grammar | None = None,
        must_call: bool = False,
        patient: bool = False,
    ) -> None:
        self.num_calls = 0
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
        self._calls = calls
        self._names = names
        self._grammar = grammar
        self._must_call = must_call
        self._opening = (
            calls.opening if grammar and calls else ()
        )  # of a call, while none has begun and one may or must
        self._opener: str | None = None  # of the call under way, and after it until there is content again
        self._said = False  # there is some content
        self._begun = begun  # the thought has visible text
        self._forced = 0  # ids still to come of a closing that was forced
        self._stopped = False
        self._num_tokens = 0
        self._num_thought = 0
        self._num_landing = 0
        self._patient = patient
        self._guard = self._new_guard(THOUGHT if phase is Phase.THOUGHT else CONTENT)
        self._thought_began: float | None = None

    def start(self) -> Verdict:
        return self._next()

    def after(self, token_id: int) -> Verdict:
        if token_id in self._end_ids:
            if self._phase is Phase.THOUGHT:
                return self._close("model")  # the engine drops the end token
            self._ids.append(token_id)
            return GO_ON
        forced, phase = self._forced > 0, self._phase
        self._take(token_id)
        if self._stopped:
            return Verdict(end="stop")
        if self._grammar and not forced and phase is not Phase.THOUGHT and self._phase is not Phase.THOUGHT:
            if token_id in self._opening[:1]:
                return self._open_call(self._opening[1:])
            if not (phase is Phase.LANDING and self._tokenizer.token_bytes(token_id).isspace()):
                self._opening = ()
                self._grammar.push(token_id)
                if self._grammar.ended:
                    return Verdict(end="stop")
        if forced:
            self._forced -= 1
        elif self._guard.push(token_id):
            return self._close("loop") if self._phase is Phase.THOUGHT else Verdict(end="loop")
        elif self._phase is Phase.THOUGHT and self._exhausted():
            return self._close("budget")
        return self._next()

    def finish(self) -> None:
        """After the last token: hand out what was held back. A mark that was never completed is dropped, as is half a
        character; a stop string that was never completed is text."""
        if self._phase is Phase.THOUGHT:
            self._end_thought(Phase.THOUGHT)
            return
        if self._phase is Phase.CALL:
            self._end_call(self._held)
        elif not self._begins_stray() and (self._opener is None or self._held.strip()):
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
        elif self._calls and self._phase is not Phase.THOUGHT and token_id in self._calls.tokens:
            self._text = TextStream(self._tokenizer)
            self._read(self._calls.tokens[token_id])
        else:
            self._read(self._text.push(token_id))

    def _begin_thought(self) -> None:
        self._phase = Phase.THOUGHT
        self._guard = self._new_guard(THOUGHT)
        self._thought_began = time.perf_counter()

    def _end_thought(self, phase: Phase) -> None:
        self._flush("reasoning")
        if phase is Phase.LANDING:
            self.thought_ended = self.thought_ended or "model"
        if self._thought_began is not None:
            self.thought_seconds = time.perf_counter() - self._thought_began
        self._phase = phase
        self._guard = self._new_guard(CONTENT)
        self._held = ""

    def _new_guard(self, patience: Patience) -> LoopGuard:
        return LoopGuard(ENDLESS if self._patient else patience)

    def _exhausted(self) -> bool:
        return self._num_tokens >= self._room or (self._budget is not None and self._num_thought >= self._budget)

    def _close(self, why: Ending) -> Verdict:
        """Force the model's own closing. Half a mark or half a character before it is dropped from the text."""
        self.thought_ended = why
        self._held = ""
        self._text = TextStream(self._tokenizer)
        self._forced = len(self._think.closing)
        return Verdict(force=self._think.closing)

    def _next(self) -> Verdict:
        """What may come now."""
        if self._grammar is None or self._forced or self._phase is Phase.THOUGHT:
            return Verdict(allow=self._allowed())
        may_think = self._phase is Phase.OPENING and self._allowed() is None
        if self._must_call and self._opening and not may_think:
            return self._open_call(self._opening)
        allowed = self._grammar.mask()
        if allowed is None:
            return Verdict(end="length")  # too complex to go on
        if self._must_call and self._opening:
            allowed[:] = False
        allowed[list(self._opening[:1])] = True
        if may_think:
            allowed[self._think.open_id] = True
        if self._phase is Phase.LANDING and self._num_landing < BLANKS:
            allowed |= self._masks.blank
        return Verdict(allow=allowed)

    def _open_call(self, ids: tuple[int, ...]) -> Verdict:
        """Write out what begins a call. One that need not be made has the form that the model gives it."""
        self._opening = ()
        self._forced = len(ids)
        if not self._must_call:
            self._grammar = None
        return Verdict(force=ids) if ids else self._next()

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
        more = self._phase in (Phase.LANDING, Phase.CONTENT, Phase.CALL)
        while more:
            more = self._read_call() if self._phase is Phase.CALL else self._read_content()

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
            self._held = rest if self._grammar is None else ""  # part of a token that the grammar has not allowed

    def _read_content(self) -> bool:
        """Whether there may be more to read, as a call has begun."""
        while not self._stopped:
            if self._phase is Phase.LANDING or (self._opener is not None and not self._said):
                self._held = self._held.lstrip()
            if self._may_be_bare() and self._held.lstrip().startswith("{"):
                self._begin_call("")
                return True
            text, found, self._held = scan(self._held, (*self._stop, *self._strays(), *self._call_marks()))
            if self._calls and found not in self._stop:  # blank space before a call is no content
                shown = text.rstrip()
                self._held = self._held if found else text[len(shown) :] + self._held
                text = shown
            self._emit("content", text)
            if text or (found is None and not self._begins_stray()):
                self._phase = Phase.CONTENT  # also where all is held back: an end would turn half a stop into text
            if found is None:
                return False
            if self._calls and found in self._calls.pairs:
                self._begin_call(found)
                return True
            if self._calls and found in self._calls.around:
                continue
            if found in self._stop or self._phase is Phase.CONTENT:
                self._stopped = True
                self._held = ""
        return False

    def _begin_call(self, opener: str) -> None:
        self._phase = Phase.CALL
        self._opener = opener

    def _read_call(self) -> bool:
        """Whether there may be more to read, as the call has ended."""
        if self._grammar:  # which knows the end, and lets a string in the arguments spell the mark
            return False
        closer = self._calls.pairs.get(self._opener or "") if self._calls else None
        inside, found, after = scan(self._held, (closer,) if closer else ())
        if found is None:
            return False
        self._end_call(inside, found)
        self._held = after
        return True

    def _end_call(self, inside: str, closer: str = "") -> None:
        self._phase = Phase.CONTENT
        if call := read_call(inside, self._names):
            self.num_calls += 1
            self._hand_out("tool_call", "", call)
        else:
            self._emit("content", f"{self._opener}{inside}{closer}")

    def _may_be_bare(self) -> bool:
        if self._calls is None or not self._calls.bare or (self._grammar and not self._must_call):
            return False
        return not self._said and self._opener is None

    def _call_marks(self) -> tuple[str, ...]:
        return (*self._calls.pairs, *self._calls.around) if self._calls else ()

    def _strays(self) -> tuple[str, ...]:
        """Marks that are no part of the content: passed over before its first word, and its end after that."""
        return (OPEN, CLOSE) if self._think.spelled and self.thought_ended is not None and not self._grammar else ()

    def _begins_stray(self) -> bool:
        """Nothing is held back, or what may become a mark that is left out."""
        return not self._held or any(mark.startswith(self._held) for mark in self._strays())

    def _emit(self, kind: Kind, text: str) -> None:
        if text:
            self._hand_out(kind, without_marks(text))

    def _flush(self, kind: Kind) -> None:
        """The end of a kind: hand out the ids that stand for no text."""
        if self._ids:
            self._hand_out(kind, "")

    def _hand_out(self, kind: Kind, text: str, call: ToolCall | None = None) -> None:
        if kind == "reasoning":
            self.reasoning_tokens += len(self._ids)
        elif kind == "content" and text:
            self._said, self._opener = True, None
        self._pieces.append(Piece(kind, text, tuple(self._ids), call))
        self._ids.clear()
