"""One engine step: schedule, one forward pass over the packed rows, sample, verify guesses, advance the cache."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from millet.engine.cache import BlockPool
from millet.engine.forward import Forward
from millet.engine.sampler import likeliest, sample, score
from millet.engine.scheduler import Scheduler, Work
from millet.engine.sequence import Sequence
from millet.engine.speculation import Gate, PromptLookup
from millet.kernels.paged import Span

Speculation = Literal["auto", "ngram", "mtp", "off"]


class Runner:
    """Runs steps over the sequences of one scheduler. Single-threaded; the engine's thread owns it."""

    def __init__(self, forward: Forward, *, max_batch: int, chunk: int, speculation: Speculation = "auto") -> None:
        self.forward = forward
        pool = BlockPool(forward.cache.num_blocks, forward.cache.block_size)
        self.scheduler = Scheduler(pool, max_batch=max_batch, chunk=chunk)
        self.lookup: PromptLookup | None = None
        self.mtp = speculation in ("auto", "mtp") and forward.has_mtp
        if speculation == "ngram" or (speculation == "auto" and not self.mtp):
            self.lookup = PromptLookup()
        self.gate = Gate()
        self._mtp_drafts: dict[Sequence, int] = {}
        self.steps = 0
        self.rows = 0

    def step(self) -> list[Sequence]:
        """Run one step; returns the sequences that may have new tokens. Finished ones have left the scheduler."""
        started = time.perf_counter()
        self._draft()
        works = self.scheduler.schedule()
        if not works:
            return []
        wanted = self._wanted(works)
        hidden_TD, logits_NV = self._forward(works, wanted.rows)
        decoding = all(w.sequence.num_generated > 0 and w.sequence.num_uncomputed == 1 for w in works)
        drafted = sum(len(w.sequence.drafts) for w in works)
        touched, drawn = self._sample(works, wanted, logits_NV, hidden_TD)
        if decoding:
            seconds = time.perf_counter() - started
            self.gate.record(len(works), seconds=seconds, tokens=drawn, drafted=drafted)
        for sequence in touched:
            sequence.drafts = []
            if sequence.done:
                self.remove(sequence)
        self.steps += 1
        self.rows += hidden_TD.shape[0]
        return touched

    def remove(self, sequence: Sequence) -> None:
        """Take a finished or cancelled sequence out and free its blocks."""
        self.scheduler.remove(sequence)
        self._mtp_drafts.pop(sequence, None)
        if self.lookup:
            self.lookup.forget(sequence)

    def _draft(self) -> None:
        """Guess ahead for the sequences that only need their next token, if that pays."""
        if self.lookup is None and not self.mtp:
            return
        running = self.scheduler.running
        decoding = [s for s in running if s.num_generated > 0 and s.num_uncomputed == 1 and s.finish_reason is None]
        if not decoding or len(decoding) < len(running) or not self.gate.open(len(decoding)):
            return
        for sequence in decoding:
            if sequence.siblings:
                continue  # a guess would have to be verified for each of them
            guesses = self.lookup.propose(sequence) if self.lookup else self._mtp_guess(sequence)
            sequence.drafts = guesses[: sequence.max_length - len(sequence.token_ids) - 1]

    def _mtp_guess(self, sequence: Sequence) -> list[int]:
        guess = self._mtp_drafts.get(sequence)
        return [] if guess is None else [guess]

    def _forward(self, works: list[Work], wanted: list[int]) -> tuple[Tensor, Tensor]:
        """Hidden states [T, D] of all rows of the step, in the order of `works`, and logits [N, V] of the wanted."""
        ids: list[int] = []
        spans = []
        for work in works:
            s = work.sequence
            ids += (s.token_ids[s.num_computed :] + s.drafts)[: work.length]
            spans.append(Span(s.num_computed, work.length, s.blocks))
        return self.forward.step(ids, spans, wanted)

    def _wanted(self, works: list[Work]) -> _Wanted:
        """Which rows are sampled from or score a forced token."""
        wanted = _Wanted()
        start = 0
        for work in works:
            s = work.sequence
            for offset in range(min(work.length, s.num_uncomputed - 1) if s.sampling.logprobs else 0):
                position = s.num_computed + offset + 1
                if position - s.num_prompt >= len(s.logprobs):
                    wanted.scored.append((len(wanted.rows), s, s.token_ids[position]))
                    wanted.rows.append(start + offset)
            if work.length >= s.num_uncomputed and s.finish_reason is None:
                wanted.drawing.append((len(wanted.rows), work))
                wanted.rows += range(start + s.num_uncomputed - 1, start + work.length)
            start += work.length
        return wanted

    def _sample(
        self, works: list[Work], wanted: _Wanted, logits_NV: Tensor, hidden_TD: Tensor
    ) -> tuple[list[Sequence], int]:
        """Log-probabilities of forced tokens, then draw and verify token by token."""
        if wanted.scored:
            index, sequences, tokens = zip(*wanted.scored, strict=True)
            values = score(logits_NV[list(index)], list(tokens))
            for row, sequence, token, value in zip(index, sequences, tokens, values, strict=True):
                _note(sequence, logits_NV[row], token, value)
        return self._draw(works, wanted.drawing, logits_NV, hidden_TD)

    def _draw(
        self, works: list[Work], drawing: list[tuple[int, Work]], logits_NV: Tensor, hidden_TD: Tensor
    ) -> tuple[list[Sequence], int]:
        """Draw the next token of each; where it is the guessed one, the next row is valid too: draw again from it.

        Samples that have said the same so far draw from one row, and stay one sequence as long as they draw the same.
        Returns the sequences of the step, these samples included, and how many tokens were drawn for those of `works`.
        """
        spans = {w.sequence: (w.sequence.num_computed, min(w.length, w.sequence.num_uncomputed)) for w in works}
        computed = {sequence: count for sequence, (_, count) in spans.items()}  # rows whose tokens are confirmed
        touched = list(computed)
        turns: list[tuple[int, Sequence]] = []
        copies: list[tuple[int, int]] = []
        for row, work in drawing:
            turns += ((row, sequence) for sequence in (work.sequence, *work.sequence.siblings))
            touched += _caught_up(work.sequence)
        before = [(work.sequence, len(work.sequence.token_ids)) for _, work in drawing]
        guessed = drawn = 0  # guesses that the sequences still in `turns` have had confirmed; tokens
        while turns:
            sequences = [sequence for _, sequence in turns]
            sampled = sample(logits_NV, sequences, [row + guessed for row, _ in turns])
            drawn += sum(sequence in computed for sequence in sequences)
            confirmed = []
            for i, (row, sequence) in enumerate(turns):
                token, length = sampled.token_ids[i], len(sequence.token_ids)
                if sequence.sampling.logprobs and sampled.logprobs:
                    _note(sequence, logits_NV[row + guessed], token, sampled.logprobs[i])
                sequence.append(token)
                if sequence.unscored and len(sequence.logprobs) == length - sequence.num_prompt:
                    # An end token was dropped for forced ones: the first of these stands where it stood.
                    instead = sequence.token_ids[length]
                    (value,) = score(logits_NV[[row + guessed]], [instead])
                    _note(sequence, logits_NV[row + guessed], instead, value)
                expected = sequence.drafts[guessed] if guessed < len(sequence.drafts) else None
                # Forced tokens behind it, or a dropped end token, make the remaining guesses moot.
                if token == expected and len(sequence.token_ids) == length + 1 and sequence.finish_reason is None:
                    computed[sequence] += 1
                    confirmed.append((row, sequence))
            turns, guessed = confirmed, guessed + 1
        for sequence, length in before:
            if sequence.siblings:
                self._part(sequence, length, computed[sequence], copies)
        starts = {sequence: start for sequence, (start, _) in spans.items()}
        if self.mtp:
            self._mtp_draft(works, starts, computed, hidden_TD)
        for copy in copies:  # after the MTP layer has written its rows of the prompt
            self.forward.cache.copy_block(*copy)
        for sequence, count in computed.items():
            self.scheduler.advance(sequence, starts[sequence] + count - sequence.num_computed)
        return touched, drawn

    def _part(self, leader: Sequence, length: int, computed: int, copies: list[tuple[int, int]]) -> None:
        """Samples that go on as the leader does stay with it; every other way to go on becomes a sequence of its own.

        length: of all of them before the token that was just drawn. Those that a hook has forced more on go alone.
        """
        ways: dict[object, list[Sequence]] = {}
        for sequence in (leader, *leader.siblings):
            if not sequence.done:
                new = sequence.token_ids[length:]
                alike = len(new) == 1 and sequence.finish_reason is None
                ways.setdefault(new[0] if alike else sequence, []).append(sequence)
        leader.siblings = []
        self.scheduler.advance(leader, computed)
        for first, *others in ways.values():
            first.siblings = others
            if first is not leader and (copy := self.scheduler.fork(leader, first)):
                copies.append(copy)

    def _mtp_draft(
        self, works: list[Work], starts: dict[Sequence, int], computed: dict[Sequence, int], hidden_TD: Tensor
    ) -> None:
        """Run the MTP layer over this step's confirmed rows; its last row per sequence guesses the token after next.

        Row i takes the hidden state of position i and the embedding of token i + 1. Where i + 1 is not known yet (the
        middle of a prefill is, its end is sampled by now), there is nothing to guess from. A prefix found in the cache
        brings its last MTP row from whoever computed it, perhaps with another next token: a worse guess, no wrong text.
        """
        rows: list[int] = []
        next_ids: list[int] = []
        spans, ends = [], []
        start = 0
        for work in works:
            s, count, first = work.sequence, computed[work.sequence], starts[work.sequence]
            known = s.token_ids[first + 1 : first + 1 + count]
            if known:
                rows += range(start, start + len(known))
                next_ids += known
                spans.append(Span(first, len(known), s.blocks))
                ends.append((len(rows) - 1, s))
            start += work.length
        self._mtp_drafts = {}
        if not rows:
            return
        logits_NV = self.forward.draft(next_ids, hidden_TD[rows], spans, [row for row, _ in ends])
        guesses = logits_NV.argmax(dim=-1).tolist()
        for (_, sequence), guess in zip(ends, guesses, strict=True):
            if starts[sequence] + computed[sequence] + 1 == len(sequence.token_ids):
                self._mtp_drafts[sequence] = guess


def _caught_up(leader: Sequence) -> list[Sequence]:
    """Its siblings, with what was learned of the prompt and of tokens that all their hooks forced alike."""
    for sibling in leader.siblings:
        if sibling.num_cached is None:
            sibling.num_cached = sibling.num_prompt
            sibling.top_logprobs, sibling.logprobs = list(leader.top_logprobs), list(leader.logprobs)
    return leader.siblings


@dataclass(slots=True)
class _Wanted:
    """The rows of a step whose logits are wanted, and what for."""

    rows: list[int] = field(default_factory=list)
    scored: list[tuple[int, Sequence, int]] = field(default_factory=list)  # logits row, sequence, forced token
    drawing: list[tuple[int, Work]] = field(default_factory=list)  # logits row of the work's first draw


def _note(sequence: Sequence, logits_V: Tensor, token_id: int, logprob: float) -> None:
    """One more log-probability, with those of the likeliest tokens where they were asked for."""
    sequence.logprobs.append(logprob)
    if sequence.sampling.top_logprobs:
        count = sequence.sampling.top_logprobs
        sequence.top_logprobs.append(likeliest(logits_V, count, token_id, logprob))
