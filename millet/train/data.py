"""Conversations as a model in training reads them: token ids, which it learns to write, and what is packed together.

A file has one JSON object a line:

    {"messages": [{"role": "user", "content": ...}, {"role": "assistant", "reasoning": ..., "content": ...}]}

Each is rendered once, by the model's own template, to the ids that an `Assistant` on this model would send to it and
get from it, thoughts marked as `ThinkFormat` says. Only replies are learned: the thought, the marks that the model
writes itself, the content, and the token that ends the turn. The content of a message with "spelt": true is learned
character by character: the tokens of a word that is written backwards have nothing to do with its letters. One with
"unfinished": true was cut off: nothing ends it, and no other conversation comes behind it.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from millet.errors import BadRequest, UnsupportedModel
from millet.models.chat_template import REASONING_FIELDS, ChatTemplate, encode_chat
from millet.models.model import Model
from millet.models.tokenizer import Tokenizer
from millet.reasoning.format import CLOSE, OPEN, ThinkFormat, think_format
from millet.reasoning.prompt import check_messages

WINDOW = 1024  # examples packed together; enough that bins are full, few enough that finding a place is quick


@dataclass(frozen=True, slots=True)
class Example:
    """A sequence. ids: int32 [T]. learned: bool [T], whether a token is one that the model learns to write."""

    ids: NDArray[np.int32]
    learned: NDArray[np.bool_]

    @classmethod
    def of(cls, ids: Sequence[int], learned: Sequence[bool]) -> Example:
        return cls(np.array(ids, dtype=np.int32), np.array(learned, dtype=np.bool_))

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def first(self) -> int:
        """Index of the first token that is learned."""
        return int(self.learned.argmax())


def read_chats(path: Path) -> Iterator[tuple[int, list[dict[str, Any]]]]:
    """(line number, messages) of each conversation. Raises BadRequest for what is none, and repeats nothing of it."""
    try:
        with open(path, encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield number, _messages(path, number, line)
    except OSError as error:
        raise BadRequest(f"{path} cannot be read ({error.strerror}); check the recipe's data") from error
    except UnicodeDecodeError as error:
        raise BadRequest(f"{path} is not UTF-8; convert it") from error


class Renderer:
    """Conversations to examples, for one model. Raises UnsupportedModel for a model without a chat template.

    teaches_thinking: whether a reply so far has a thought, though the model was not made to think. From then on a reply
    without one comes after an empty thought, as it does where thinking is turned off for a model that thinks.
    """

    def __init__(self, model: Model) -> None:
        if model.template is None:
            raise UnsupportedModel(f"{model.name} has no chat template; take a model that was made for chat")
        self._template: ChatTemplate = model.template
        self._tokenizer: Tokenizer = model.tokenizer
        self._think: ThinkFormat = think_format(self._template, self._tokenizer)
        self._end = self._end_of_turn(model.eos_token_ids)
        self.teaches_thinking = False

    @property
    def thinks(self) -> bool:
        """Whether the model was made to think."""
        return self._think.own

    def look(self, messages: Sequence[Mapping[str, Any]]) -> None:
        """See whether there is a thought in them, before the first is rendered."""
        self.teaches_thinking |= not self._think.own and any(map(_has_thought, messages))

    def examples(
        self, messages: Sequence[Mapping[str, Any]], before: Sequence[Mapping[str, Any]] = ()
    ) -> list[Example]:
        """One sequence, where the template shows earlier replies as they were written; else one for each reply.

        before: what was said in the same chat already; nothing of it is learned. Raises BadRequest for messages that
        cannot be rendered, and where there is no reply.
        """
        found: list[tuple[list[int], list[bool]]] = []
        for index, message in enumerate(messages):
            if not isinstance(message, Mapping) or message.get("role") != "assistant":
                continue
            prompt, reply = self._turn([*before, *messages[:index]], message)
            learned = [False] * len(prompt)
            if found and prompt[: len(found[-1][0])] == found[-1][0]:
                earlier = found.pop()[1]
                learned[: len(earlier)] = earlier
            found.append((prompt + reply, learned + [True] * len(reply)))
        if not found:
            raise BadRequest("there is no reply in it; add a message of role assistant")
        return [Example.of(ids, learned) for ids, learned in found]

    def _turn(self, before: Sequence[Mapping[str, Any]], message: Mapping[str, Any]) -> tuple[list[int], list[int]]:
        """The ids that the reply comes after, and its own."""
        check_messages(before)
        self.look([message])
        thought = _thought(message)
        content = message.get("content") or ""
        if message.get("tool_calls"):
            raise BadRequest("it has tool calls, which cannot be trained yet; leave it out")
        if not isinstance(thought, str) or not isinstance(content, str) or not content.strip():
            raise BadRequest("a reply's content must be some text, and so must its reasoning if it has one")
        for mark in ("spelt", "unfinished"):
            if not isinstance(message.get(mark, False), bool):
                raise BadRequest(f"a reply's {mark} must be true or false")
        thought = thought.strip("\n")
        switches: dict[str, Any] = {self._think.switch: bool(thought)} if self._think.switch else {}
        prompt = encode_chat(self._template, self._tokenizer, before, **switches)
        tail = self._think.tail(self._tokenizer, prompt)
        reply: list[int] = []
        if thought:
            # A model that opens its thought itself learns to; where the template does it, there is nothing to learn.
            reply += self._think.opening if tail != "open" else ()
            reply += [*self._tokenizer.encode_plain(thought, at_start=False), *self._think.closing]
        elif tail == "open":
            prompt = [*prompt, *self._think.closing]
        elif tail == "bare" and not self._think.switch and (self._think.own or self.teaches_thinking):
            prompt = [*prompt, *self._think.opening, *self._think.closing]
        parts = content if message.get("spelt") else (content,)
        reply += [id for part in parts for id in self._tokenizer.encode_plain(part, at_start=False)]
        return prompt, reply if message.get("unfinished") else [*reply, self._end]

    def _end_of_turn(self, ends: Sequence[int]) -> int:
        """The token that the template writes after a reply and that ends one; else any that ends one."""
        turns = [{"role": "user", "content": "."}, {"role": "assistant", "content": "."}]
        written = encode_chat(self._template, self._tokenizer, turns, add_generation_prompt=False)
        found = next((i for i in reversed(written) if i in ends), ends[0] if ends else None)
        if found is None:
            raise UnsupportedModel("the model has no token that ends a reply; add eos_token_id to its configuration")
        return found


def _thought(message: Mapping[str, Any]) -> Any:
    return next((message[name] for name in REASONING_FIELDS if message.get(name) is not None), "")


def _has_thought(message: object) -> bool:
    return isinstance(message, Mapping) and message.get("role") == "assistant" and bool(_thought(message))


def thinking_template(template: ChatTemplate) -> ChatTemplate:
    """The template of a model that has learned to think: it renders the same, and says so to `think_format`."""
    return ChatTemplate(
        f"{{# Replies begin with a thought: {OPEN} ... {CLOSE} #}}{template.source}", template.special_tokens
    )


class Reader(Protocol):
    """A `Renderer`, or what reads as one."""

    def look(self, messages: Sequence[Mapping[str, Any]]) -> None: ...
    def examples(
        self, messages: Sequence[Mapping[str, Any]], before: Sequence[Mapping[str, Any]] = ()
    ) -> Sequence[Example]: ...


def render_files(
    files: Sequence[tuple[Path, Reader]], following: float = 0.0, seed: int = 0, limit: int | None = None
) -> list[Example]:
    """Every conversation of some files, each with who reads it.

    following: share of them that come behind another one of all of these, as somebody goes on to ask something else in
    the same chat. limit: tokens of a sequence; what would be longer behind another begins a chat. Raises BadRequest
    that names file and line.
    """
    chats = [(reader, path, number, messages) for path, reader in files for number, messages in read_chats(path)]
    for reader, _, _, messages in chats:
        reader.look(messages)
    draw = random.Random(f"following {seed}")
    if following:
        draw.shuffle(chats)
    examples: list[Example] = []
    before: list[dict[str, Any]] = []
    for reader, path, number, messages in chats:
        if not _can_follow(before, messages) or draw.random() >= following:
            before = []
        try:
            found = reader.examples(messages, before)
            if before and limit is not None and max(map(len, found)) > limit:
                before = []
                found = reader.examples(messages)
        except BadRequest as error:
            raise BadRequest(f"{path} line {number}: {error}") from error
        examples += found
        before = [*before, *messages]
    return examples


def _can_follow(before: Sequence[Mapping[str, Any]], messages: Sequence[object]) -> bool:
    """Whether a chat goes on so: a reply that ended, then a user. A system message is the first of a chat."""
    if not before or _role(before[-1]) != "assistant" or _role(messages[0]) != "user":
        return False
    return not before[-1].get("unfinished")


def _role(message: object) -> Any:
    return message.get("role") if isinstance(message, Mapping) else None


class Packing:
    """Which examples go through the model together, epoch after epoch, and how far that has come.

    lengths: of the examples. budget: tokens that a pack may have; no example is longer. In every epoch each example is
    in one pack; what is packed together and in which order depends on seed and epoch alone.
    """

    def __init__(self, lengths: Sequence[int], budget: int, seed: int, epochs: int) -> None:
        self._lengths, self._budget, self._seed = list(lengths), budget, seed
        self._epochs = epochs
        self._epoch, self._next = 0, 0
        self._packs = self._pack(0)

    def __len__(self) -> int:
        """Packs in all epochs together."""
        return sum(len(self._pack(epoch)) for epoch in range(self._epochs))

    def take(self, count: int) -> list[list[int]]:
        """The next packs, of fewer only at the very end: each has indices of examples."""
        taken: list[list[int]] = []
        while len(taken) < count and self._epoch < self._epochs:
            taken.append(self._packs[self._next])
            self._next += 1
            if self._next == len(self._packs):
                self._begin(self._epoch + 1)
        return taken

    def state(self) -> dict[str, Any]:
        return {"epoch": self._epoch, "next": self._next}

    def restore(self, state: Mapping[str, Any]) -> None:
        self._begin(state["epoch"])
        self._next = state["next"]

    def _begin(self, epoch: int) -> None:
        self._epoch, self._next = epoch, 0
        self._packs = self._pack(epoch) if epoch < self._epochs else []

    def _pack(self, epoch: int) -> list[list[int]]:
        draw = random.Random(f"{self._seed} {epoch}")  # seeded with text: by SHA-512, the same everywhere
        order = list(range(len(self._lengths)))
        draw.shuffle(order)
        packs = []
        for start in range(0, len(order), WINDOW):
            packs += first_fit_decreasing(order[start : start + WINDOW], self._lengths, self._budget)
        draw.shuffle(packs)
        return packs


def first_fit_decreasing(items: Sequence[int], lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Bins of at most `budget`: the longest item first, each into the first bin that has room."""
    bins: list[list[int]] = []
    room: list[int] = []
    for item in sorted(items, key=lambda i: -lengths[i]):  # stable: equals stay in their order
        place = next((b for b, left in enumerate(room) if left >= lengths[item]), None)
        if place is None:
            place = len(bins)
            bins.append([])
            room.append(budget)
        bins[place].append(item)
        room[place] -= lengths[item]
    return bins


def _messages(path: Path, number: int, line: str) -> list[dict[str, Any]]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise BadRequest(f"{path} line {number} is not JSON; write one object a line") from error
    messages = row.get("messages") if isinstance(row, dict) else None
    if not isinstance(messages, list) or not messages:
        raise BadRequest(f'{path} line {number} has no messages; it must be {{"messages": [{{"role": ..., ...}}]}}')
    return messages
