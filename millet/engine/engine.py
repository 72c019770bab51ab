"""The engine: token ids in, token ids out, from any thread. One background thread steps through all requests."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from collections.abc import Sequence as Ids
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from millet.engine.forward import Forward, NativeForward, TorchForward
from millet.engine.hook import Hook
from millet.engine.planner import plan_cache
from millet.engine.runner import Runner, Speculation
from millet.engine.sampling import Sampling
from millet.engine.sequence import Sequence, TopLogprobs
from millet.engine.stopping import StopHook
from millet.errors import BadRequest, MilletError, PromptTooLong
from millet.kernels.block_cache import BLOCK_SIZE, BlockCache
from millet.kernels.heap import release_freed
from millet.kernels.native.library import why_not
from millet.kernels.paged import PagedCache
from millet.kernels.threads import leave_to_native, release_helpers

if TYPE_CHECKING:
    from millet.models.model import Model


@dataclass(frozen=True, slots=True)
class Completion:
    """One finished sample. `token_ids` includes the end token where the model (or a stop) ended it."""

    token_ids: list[int]
    logprobs: list[float] | None
    finish_reason: str
    prompt_tokens: int
    cached_tokens: int
    top_logprobs: list[TopLogprobs] | None = None


@dataclass(frozen=True, slots=True)
class Chunk:
    """New tokens of one sample of a running request; `finish_reason` is set on its last chunk.

    logprobs, top_logprobs: one for each token, where they were asked for; only a cancelled sample's last may lack them.
    """

    index: int
    token_ids: list[int]
    finish_reason: str | None
    logprobs: list[float] = field(default_factory=list)
    top_logprobs: list[TopLogprobs] = field(default_factory=list)


class Generation:
    """A request under way. Iterate for chunks as they come, or `take` what is there; `cancel()` at any time."""

    def __init__(self, engine: Engine, sequences: list[Sequence], on_news: Callable[[], None] | None = None) -> None:
        self.sequences = sequences
        self.cancelled = False
        self.ended = False
        """A sample has ended, or the engine has broken; the last chunks may still have to be taken."""
        self._engine = engine
        self._on_news = on_news
        self._open = len(sequences)
        self._reported = [0] * len(sequences)
        self._chunks: queue.SimpleQueue[Chunk | BaseException] = queue.SimpleQueue()

    def __iter__(self) -> Iterator[Chunk]:
        while self._open:
            yield self._opened(self._chunks.get())

    def take(self) -> list[Chunk]:
        """The chunks that are ready, without waiting. Raises what broke the engine."""
        chunks = []
        while self._open:
            try:
                chunks.append(self._opened(self._chunks.get_nowait()))
            except queue.Empty:
                break
        return chunks

    def result(self) -> list[Completion]:
        """Wait for all samples, in order of index."""
        for _ in self:
            pass
        return [self.completion(index) for index in range(len(self.sequences))]

    def completion(self, index: int) -> Completion:
        """One sample, when its last chunk has come."""
        s = self.sequences[index]
        return Completion(
            token_ids=s.generated,
            logprobs=list(s.logprobs) if s.sampling.logprobs else None,
            finish_reason=s.finish_reason or "cancelled",
            prompt_tokens=s.num_prompt,
            cached_tokens=s.num_cached or 0,
            top_logprobs=list(s.top_logprobs) if s.sampling.top_logprobs else None,
        )

    def cancel(self) -> None:
        """Stop all samples; their cache blocks are free before the next step begins."""
        self._engine._cancel(self)

    def _opened(self, chunk: Chunk | BaseException) -> Chunk:
        if isinstance(chunk, BaseException):
            self._open = 0
            raise chunk
        self._open -= chunk.finish_reason is not None
        return chunk

    def _report(self, sequence: Sequence) -> bool:
        """Engine's thread: hand over what is new, if anything is."""
        start, end = self._reported[sequence.index], sequence.num_generated
        if sequence.sampling.logprobs and not sequence.done:
            end = len(sequence.logprobs)  # forced tokens wait for theirs
        if start == end and not sequence.done:
            return False
        self._reported[sequence.index] = end
        self.ended |= sequence.done
        self._chunks.put(
            Chunk(
                sequence.index,
                sequence.token_ids[sequence.num_prompt + start : sequence.num_prompt + end],
                sequence.finish_reason if sequence.done else None,
                sequence.logprobs[start:end],
                sequence.top_logprobs[start:end],
            )
        )
        return True

    def _fail(self, error: BaseException) -> None:
        self.ended = True
        self._chunks.put(error)

    def _announce(self) -> None:
        """Engine's thread, once a step."""
        if self._on_news:
            try:
                self._on_news()
            except Exception:  # who was to listen is gone: an event loop that has closed, say
                self.cancel()


class Engine:
    """Generates tokens for many requests at once on one model.

    cache_tokens: positions the cache can hold, fixed for the engine's life; None asks the planner.
    max_batch: most sequences computed in one step. chunk: most rows of one step.
    speculation: how to guess ahead; "auto" takes the model's MTP module if it has one, else prompt lookup.
    exact: insist that log-probabilities equal those of `model.logprobs` bit for bit, with gradients too, as they do on
    the native kernels. BadRequest where these cannot be had.
    """

    def __init__(
        self,
        model: Model,
        *,
        cache_tokens: int | None = None,
        max_batch: int = 64,
        chunk: int = 256,
        speculation: Speculation = "auto",
        exact: bool = False,
    ) -> None:
        if speculation == "mtp" and not model.config.mtp_layers:
            raise BadRequest(f"{model.name} has no MTP module; use speculation='ngram' or 'auto'")
        self.model = model
        if exact:
            _insist_on_exactness(model)
        with model.layout:
            model.network.pack()
        tokens = cache_tokens or plan_cache(model.config, model.cache_dtype, model.device)
        num_blocks = -(-tokens // BLOCK_SIZE)
        self.cache_tokens = num_blocks * BLOCK_SIZE
        self.context_length = min(model.config.max_position_embeddings, self.cache_tokens)
        self._make_runner = lambda: Runner(
            _forward(model, num_blocks, chunk), max_batch=max_batch, chunk=chunk, speculation=speculation
        )
        self._exact = exact
        self._made: Runner | None = self._make_runner()
        self._requests: dict[Sequence, Generation] = {}
        self._arrived: list[Generation] = []
        self._cancelled: list[Generation] = []
        self._news: set[Generation] = set()
        self._wake = threading.Condition()
        self._closed = False
        self._thread: threading.Thread | None = None
        release_helpers()

    def generate(self, prompts: Ids[Ids[int]], sampling: Sampling | None = None) -> list[list[Completion]]:
        """All samples of all prompts: result[i][j] is sample j of prompt i."""
        generations: list[Generation] = []
        try:
            for prompt in prompts:
                generations.append(self.submit(prompt, sampling))
            return [generation.result() for generation in generations]
        except BaseException:
            for generation in generations:
                generation.cancel()
            raise

    def submit(
        self,
        prompt: Ids[int],
        sampling: Sampling | None = None,
        hooks: Ids[Hook] | None = None,
        on_news: Callable[[], None] | None = None,
    ) -> Generation:
        """Queue one request. `hooks`: one for each of the n samples.

        on_news: called from the engine's thread, at most once a step, when there is something to `take`, an error
        included. It must be quick; if it fails, the request is cancelled.
        Raises PromptTooLong where the prompt leaves no room for a token, BadRequest for impossible ids.
        """
        sampling = sampling or Sampling()
        prompt = [int(token) for token in prompt]
        self.check(prompt, sampling)
        if hooks is not None and len(hooks) != sampling.n:
            raise BadRequest(f"{len(hooks)} hooks for {sampling.n} samples; give one for each")
        sequences = [self._sequence(prompt, sampling, i, hooks[i] if hooks else None) for i in range(sampling.n)]
        for child in sequences[1:]:
            child.seed = sequences[0].seed
        generation = Generation(self, sequences, on_news)
        with self._wake:
            if self._closed:
                raise MilletError("the engine is closed; make a new one")
            self._arrived.append(generation)
            if self._thread is None:
                self._thread = threading.Thread(target=self._loop, name="millet-engine", daemon=True)
                self._thread.start()
            self._wake.notify()
        return generation

    def check(self, prompt: Ids[int], sampling: Sampling) -> None:
        """Whether a request is possible. Raises BadRequest, PromptTooLong."""
        vocabulary = self.model.config.vocab_size
        if not prompt:
            raise BadRequest("the prompt is empty; give at least one token")
        if len(prompt) >= self.context_length:
            raise PromptTooLong(
                f"the prompt is {len(prompt)} tokens and the context holds {self.context_length}, "
                "the reply included; shorten it, or start a new conversation"
            )
        for token in (*prompt, *sampling.logit_bias, *sampling.stop_token_ids):
            if not 0 <= token < vocabulary:
                raise BadRequest(f"token id {token} is outside the vocabulary (0 to {vocabulary - 1})")

    def refresh(self) -> None:
        """Take in the model's weights as they are now, after a step of training. The prefix cache begins empty.

        Raises BadRequest while requests are under way, whose texts would come half from each.
        """
        with self._wake, self.model.layout:
            self._insist_on_rest("refresh()")
            self._made = None
            self.model.network.pack()
            self._made = self._make_runner()

    def release(self) -> None:
        """Let go of the cache and of copies of weights, for whoever needs the memory meanwhile: `refresh` or the next
        request have them made anew. An exact engine keeps both, as its trainer computes with the same copies.

        Raises BadRequest while requests are under way.
        """
        with self._wake, self.model.layout:
            self._insist_on_rest("release()")
            if self._exact:
                return
            self._made = None
            for group in self.model.network.groups():
                group.forget_copies()
        release_freed()

    def stats(self) -> dict[str, Any]:
        """Counters since the start, and the load right now."""
        runner, scheduler = self._runner, self._runner.scheduler
        return {
            "running": len(scheduler.running),
            "waiting": len(scheduler.waiting),
            "cache_tokens": self.cache_tokens,
            "cache_free_tokens": scheduler.pool.num_free * BLOCK_SIZE,
            "steps": runner.steps,
            "rows": runner.rows,
            "preemptions": scheduler.preemptions,
            "drafted": runner.gate.drafted,
            "accepted": runner.gate.accepted,
        }

    def close(self) -> None:
        """Cancel what runs and stop the thread. Safe to call twice."""
        with self._wake:
            self._closed = True
            self._wake.notify()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @property
    def _runner(self) -> Runner:
        if self._made is None:
            with self.model.layout:
                self._made = self._make_runner()
        return self._made

    def _insist_on_rest(self, call: str) -> None:
        if self._requests or self._arrived:
            raise BadRequest(f"requests are under way; wait for them, or cancel them, before {call}")

    def _sequence(self, prompt: list[int], sampling: Sampling, index: int, hook: Hook | None) -> Sequence:
        hooks = [hook] if hook else []
        if sampling.stop:
            hooks.append(StopHook(self.model.tokenizer, sampling.stop))
        ends = frozenset(sampling.stop_token_ids)
        if not sampling.ignore_eos:
            ends |= frozenset(self.model.eos_token_ids)
        return Sequence(
            prompt,
            sampling,
            index=index,
            hooks=hooks,
            end_ids=ends,
            max_length=min(len(prompt) + sampling.max_tokens, self.context_length),
        )

    def _cancel(self, generation: Generation) -> None:
        with self._wake:
            self._cancelled.append(generation)
            self._wake.notify()

    def _loop(self) -> None:
        if self.model.native:
            leave_to_native()
        with torch.inference_mode():
            while True:
                with self._wake:
                    while not (self._arrived or self._cancelled or self._closed or self._requests):
                        self._wake.wait()
                    arrived, self._arrived = self._arrived, []
                    cancelled, self._cancelled = self._cancelled, []
                    closed = self._closed
                try:
                    for generation in arrived:
                        self._begin(generation)
                    for generation in [*cancelled, *(set(self._requests.values()) if closed else ())]:
                        self._end(generation)
                    if closed:
                        return
                    with self.model.layout:
                        touched = self._runner.step()
                    if self._requests and not touched:
                        raise RuntimeError("the engine has requests and nothing to compute: a bug in the scheduler")
                    for sequence in touched:
                        self._deliver(sequence)
                except Exception as error:  # whatever broke, every caller must hear of it: no stream may hang
                    self._abandon(error)
                finally:
                    news, self._news = self._news, set()
                    for generation in news:
                        generation._announce()

    def _begin(self, generation: Generation) -> None:
        try:
            for sequence in generation.sequences:
                sequence.start()
        except Exception as error:  # a hook's own failure is its request's alone
            self._fail(generation, error)
            return
        first: Sequence | None = None
        for sequence in generation.sequences:
            self._requests[sequence] = generation
            if sequence.done:  # forced to its end before the model had a word
                self._deliver(sequence)
            elif first is not None and sequence.finish_reason is None and sequence.token_ids == first.token_ids:
                first.siblings.append(sequence)
            else:  # the first, or one whose hook forces another beginning; the prefix cache still shares the prompt
                self._runner.scheduler.add(sequence)
                if first is None and sequence.finish_reason is None:
                    first = sequence

    def _end(self, generation: Generation) -> None:
        for sequence in generation.sequences:
            if self._requests.get(sequence) is generation and not sequence.done:
                sequence.finish_reason = "cancelled"
                self._runner.remove(sequence)
                self._deliver(sequence)

    def _deliver(self, sequence: Sequence) -> None:
        generation = self._requests[sequence]
        if sequence.done:  # before the last chunk is out: who has it may ask for rest
            del self._requests[sequence]
        if generation._report(sequence):
            self._news.add(generation)

    def _fail(self, generation: Generation, error: Exception) -> None:
        generation._fail(error)
        self._news.add(generation)

    def _abandon(self, error: Exception) -> None:
        failed = set(self._requests.values())
        for sequence in list(self._requests):
            self._runner.remove(sequence)
        self._requests.clear()
        for generation in failed:
            self._fail(generation, error)


def _forward(model: Model, num_blocks: int, chunk: int) -> Forward:
    """The way to compute steps: in native calls where the model's weights are laid out for them."""
    spec, dtype = model.config.cache, model.cache_dtype
    shape: dict[str, Any] = {
        "layers": spec.layers,
        "kv_heads": spec.kv_heads,
        "key_width": spec.key_width,
        "value_width": spec.value_width,
        "value_in_key": spec.value_in_key,
        "num_blocks": num_blocks,
    }
    if model.native:
        return NativeForward(model.network, BlockCache(**shape, dtype=dtype), max_rows=chunk)
    return TorchForward(model.network, PagedCache(**shape, block_size=BLOCK_SIZE, dtype=dtype, device=model.device))


def _insist_on_exactness(model: Model) -> None:
    if not model.native:
        reason = why_not() or f"the model is in {str(model.dtype).removeprefix('torch.')} on {model.device}"
        raise BadRequest(f"exact=True needs fp32 and the native kernels on a CPU: {reason}")
