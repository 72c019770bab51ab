"""A reply under way: from the engine's chunks to the reply's events, without a thread of its own."""

from __future__ import annotations

import queue
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from itertools import zip_longest

from millet.engine.engine import Chunk, Completion, Engine
from millet.engine.sampling import Sampling
from millet.reasoning.reply import Event, Reply, TokenLogprob, Usage
from millet.reasoning.state import Piece, ReplyState


@dataclass(frozen=True, slots=True)
class Prepared:
    """A request that was checked and can begin, as often as one likes.

    prompt_tokens: of the prompt. max_tokens: the most that each of the samples may have. new_state(free): the state of
    one sample, free of a budget where it only reads. token_bytes: what a token spells, which clients like to see beside
    its log-probability.
    """

    engine: Engine
    prompt: list[int]
    sampling: Sampling
    max_tokens: int
    new_state: Callable[..., ReplyState]
    token_bytes: Callable[[int], bytes]

    @property
    def prompt_tokens(self) -> int:
        return len(self.prompt)

    def start(self, on_news: Callable[[], None] | None = None) -> Run:
        """Queue it. on_news: called from the engine's thread, at most once a step, when there is something to poll, an
        error included; it must be quick. If it fails, the reply is cancelled."""
        return Run(self, on_news)

    def read(self, completion: Completion) -> Reply:
        """The reply that an engine's completion of this prompt is, where nothing guided it: as a trainer samples."""
        state = self.new_state(free=True)
        state.start()
        for token_id in completion.token_ids:
            state.after(token_id)
        state.finish()
        usage = Usage(completion.prompt_tokens, len(completion.token_ids), state.reasoning_tokens)
        end = Event("finish", finish_reason=completion.finish_reason, usage=usage, thought_ended=state.thought_ended)
        return Reply.of([*(_event(piece, 0) for piece in state.drain()), end])

    def events(self) -> Generator[Event, None, None]:
        """All events, waiting for them. Closing the generator cancels the reply."""
        bell: queue.SimpleQueue[None] = queue.SimpleQueue()
        run = self.start(lambda: bell.put(None))
        try:
            while not run.done:
                bell.get()
                yield from run.poll()
        finally:
            if not run.done:
                run.cancel()


class Run:
    """A reply of one or several samples under way. One thread polls it."""

    def __init__(self, prepared: Prepared, on_news: Callable[[], None] | None) -> None:
        self.done = False
        """Every sample's finish has been handed out."""
        self._states = [prepared.new_state() for _ in range(prepared.sampling.n)]
        scored = prepared.sampling.logprobs
        self._scores: list[deque[TokenLogprob]] = [deque() for _ in self._states] if scored else []
        self._waiting: list[deque[Piece]] = [deque() for _ in self._scores]
        self._began = time.perf_counter()
        self._finished = 0
        self._generation = prepared.engine.submit(prepared.prompt, prepared.sampling, self._states, on_news)

    @property
    def ended(self) -> bool:
        """A sample has ended, or the engine has broken: what is left to poll is the last of it."""
        return self._generation.ended

    def poll(self) -> list[Event]:
        """What is ready, without waiting; a sample's events are in order, and its last is the finish.

        Raises what broke the engine; nothing comes after that.
        """
        events: list[Event] = []
        for chunk in self._generation.take():
            state = self._states[chunk.index]
            if chunk.finish_reason is not None:
                state.finish()
            pieces = state.drain()
            events += self._scored(chunk, pieces) if self._scores else (_event(piece, chunk.index) for piece in pieces)
            if chunk.finish_reason is not None:
                events.append(self._finish(chunk, state))
        return events

    def cancel(self) -> None:
        """End all samples; their cache blocks are free before the engine's next step begins. They still finish."""
        self._generation.cancel()

    def _scored(self, chunk: Chunk, pieces: Iterable[Piece]) -> Iterator[Event]:
        """Pieces with their tokens' log-probabilities. The state machine may be ahead of these: then they wait."""
        waiting, scores = self._waiting[chunk.index], self._scores[chunk.index]
        waiting += pieces
        for token_id, logprob, top in zip_longest(chunk.token_ids, chunk.logprobs, chunk.top_logprobs, fillvalue=()):
            if isinstance(token_id, int) and isinstance(logprob, float):
                scores.append(TokenLogprob(token_id, logprob, top))
        while waiting and (len(waiting[0].token_ids) <= len(scores) or chunk.finish_reason is not None):
            piece = waiting.popleft()
            count = min(len(scores), len(piece.token_ids))
            yield _event(piece, chunk.index, tuple(scores.popleft() for _ in range(count)))

    def _finish(self, chunk: Chunk, state: ReplyState) -> Event:
        self._finished += 1
        self.done = self._finished == len(self._states)
        completion = self._generation.completion(chunk.index)
        reason = completion.finish_reason
        if state.num_calls and reason == "stop":
            reason = "tool_calls"  # also after a thought that went round in circles: the call is to be answered
        elif state.thought_ended == "loop" and reason != "cancelled":
            reason = "loop"
        return Event(
            "finish",
            index=chunk.index,
            finish_reason=reason,
            usage=Usage(
                prompt_tokens=completion.prompt_tokens,
                completion_tokens=len(completion.token_ids),
                reasoning_tokens=state.reasoning_tokens,
                cached_tokens=completion.cached_tokens,
            ),
            thought_ended=state.thought_ended,
            seconds=time.perf_counter() - self._began,
            thought_seconds=state.thought_seconds,
        )


def _event(piece: Piece, index: int, logprobs: tuple[TokenLogprob, ...] = ()) -> Event:
    return Event(piece.kind, piece.text, piece.token_ids, index, piece.call, logprobs)
