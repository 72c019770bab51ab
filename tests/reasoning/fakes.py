"""Models that say what they are told to: a vocabulary of any byte strings, and an engine that follows a script.

The engine's sequences are the real ones, so that forcing, ending and dropped end tokens are as in the real engine.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from collections.abc import Sequence as Ids
from dataclasses import dataclass, field
from itertools import cycle, pairwise
from types import SimpleNamespace
from typing import Any

from hypothesis import strategies as st

from millet.engine.engine import Chunk, Completion
from millet.engine.hook import Hook
from millet.engine.sampling import Sampling
from millet.engine.sequence import Sequence
from millet.models.chat_template import ChatTemplate
from millet.reasoning.assistant import Assistant
from millet.reasoning.format import CLOSE, OPEN

END, START, OPEN_ID, CLOSE_ID = 256, 257, 258, 259
VOCAB = 4096

PLAIN = "{% for m in messages %}{{ m.role }}:{{ m.content }}|{% endfor %}{% if add_generation_prompt %}A:{% endif %}"
PREOPENED = PLAIN.replace("A:", "A:<think>\n")
SELF_OPENING = PLAIN.replace("m.content }}", "m.content.split('</think>')[-1] }}")
SWITCHED = PLAIN.replace("A:", "A:{% if enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}")


class Pieces:
    """A tokenizer whose vocabulary grows: ids below 256 are bytes, and any byte string gets an id when asked for.

    marks: whether <think> and </think> are tokens of their own.
    """

    special_ids = frozenset({END, START})
    vocab_size = VOCAB
    eos_token = bos_token = "<end>"
    adds_bos = False

    def __init__(self, marks: bool = False) -> None:
        self.added_tokens = {"<end>": END, "<start>": START}
        if marks:
            self.added_tokens |= {OPEN: OPEN_ID, CLOSE: CLOSE_ID}
        self._bytes = {i: bytes([i]) for i in range(256)} | {END: b"", START: b""}
        self._bytes |= {OPEN_ID: OPEN.encode(), CLOSE_ID: CLOSE.encode()} if marks else {}
        self._ids: dict[bytes, int] = {bytes([i]): i for i in range(256)}

    def piece(self, data: bytes | str) -> int:
        data = data.encode() if isinstance(data, str) else data
        if data not in self._ids:
            self._ids[data] = 300 + len(self._ids) - 256
            self._bytes[self._ids[data]] = data
        assert self._ids[data] < VOCAB
        return self._ids[data]

    def token_bytes(self, token_id: int) -> bytes:
        return self._bytes.get(token_id, b"")

    def id_of(self, text: str) -> int | None:
        return self.added_tokens.get(text) or self._ids.get(text.encode())

    def encode_plain(self, text: str, at_start: bool = True) -> list[int]:
        return list(text.encode())

    def encode(self, text: str, special: bool = True) -> list[int]:
        for name, token_id in self.added_tokens.items() if special else ():
            before, found, after = text.partition(name)
            if found:
                return [*self.encode(before), token_id, *self.encode(after)]
        return self.encode_plain(text)

    def decode(self, ids: Iterable[int], skip_special: bool = True) -> str:
        return b"".join(map(self.token_bytes, ids)).decode("utf-8", "replace")

    def _without_first_space(self, text: str) -> str:
        return text

    def script(self, *parts: str | int) -> list[int]:
        """Ids of what a model says: a string is one token a character, but for marks that are tokens."""
        return [i for part in parts for i in ([part] if isinstance(part, int) else self.encode(part))]


@dataclass
class Generation:
    """Steps one of its sequences, in turn, when asked for what is new."""

    engine: Scripted
    sequences: list[Sequence]
    scripts: list[list[int]]
    on_news: Callable[[], None]
    cancelled: bool = False
    steps: int = 0

    def __post_init__(self) -> None:
        for sequence in self.sequences:
            sequence.start()
        self.reported = [0] * len(self.sequences)
        self.turns = cycle(range(len(self.sequences)))
        self.on_news()

    def take(self) -> list[Chunk]:
        index = next(i for i in self.turns if self.sequences[i].finish_reason is None)
        sequence = self.sequences[index]
        self.steps += 1
        sequence.append(self.engine.next_token(sequence, self.scripts[index]))
        new = sequence.generated[self.reported[index] :]
        self.reported[index] += len(new)
        self.on_news()
        return [Chunk(index, new, sequence.finish_reason)]

    def completion(self, index: int) -> Completion:
        s = self.sequences[index]
        return Completion(s.generated, None, s.finish_reason or "cancelled", s.num_prompt, s.num_prompt // 2)

    def result(self) -> list[Completion]:
        return [self.completion(index) for index in range(len(self.sequences))]

    def cancel(self) -> None:
        self.cancelled = True


@dataclass
class Scripted:
    """An engine whose model follows a script of ids, one for each sample; ids that a hook does not allow are skipped.

    After the script it ends, or where that is not allowed, says "!".
    """

    model: Any
    scripts: list[list[int]]
    context_length: int = 100_000
    requests: list[tuple[list[int], Sampling]] = field(default_factory=list)
    generations: list[Generation] = field(default_factory=list)
    closed: bool = False
    lock: Any = field(default_factory=threading.Lock)

    def submit(
        self, ids: Ids[int], sampling: Sampling, hooks: Ids[Hook], on_news: Callable[[], None] | None
    ) -> Generation:
        assert len(hooks) == sampling.n
        assert not sampling.stop
        longest = min(len(ids) + sampling.max_tokens, self.context_length)
        ends = frozenset(self.model.eos_token_ids)
        sequences = [
            Sequence(list(ids), sampling, index=i, hooks=[hook], end_ids=ends, max_length=longest)
            for i, hook in enumerate(hooks)
        ]
        with self.lock:
            self.requests.append((list(ids), sampling))
            scripts = [list(self.scripts[i]) for i in range(sampling.n)]
            self.generations.append(Generation(self, sequences, scripts, on_news or (lambda: None)))
            return self.generations[-1]

    def check(self, ids: Ids[int], sampling: Sampling) -> None:
        """All is possible."""

    def next_token(self, sequence: Sequence, script: list[int]) -> int:
        def allowed(token: int) -> bool:
            return sequence.allow is None or bool(sequence.allow[token])

        while script:
            token = script.pop(0)
            if allowed(token):
                return token
        return END if allowed(END) else ord("!")

    def close(self) -> None:
        self.closed = True


def assistant(
    source: str = PLAIN,
    *scripts: list[int],
    tokenizer: Any = None,
    defaults: dict[str, float] | None = None,
    **engine: Any,
) -> Assistant:
    """An assistant on a scripted engine. source: the chat template."""
    model = SimpleNamespace(
        name="toy",
        config=SimpleNamespace(vocab_size=VOCAB),
        tokenizer=tokenizer or Pieces(),
        template=ChatTemplate(source, {}) if source else None,
        sampling_defaults=defaults or {},
        eos_token_ids=(END,),
    )
    fake: Any = Scripted(model, list(scripts), **engine)
    return Assistant(fake)


ASK = [{"role": "user", "content": "?"}]


def cuts(tokenizer: Pieces) -> Callable[[str], st.SearchStrategy[list[int]]]:
    """For a text, random ways to cut its bytes into tokens."""

    def of(text: str) -> st.SearchStrategy[list[int]]:
        data = text.encode()
        places = st.sets(st.integers(1, max(1, len(data) - 1)))

        def pieces(at: set[int]) -> list[int]:
            edges = [0, *sorted(p for p in at if p < len(data)), len(data)]
            return [tokenizer.piece(data[a:b]) for a, b in pairwise(edges) if a < b]

        return places.map(pieces)

    return of
