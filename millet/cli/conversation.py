"""A conversation as a person sees it: questions and replies, what of them the model is shown, and files of it."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from millet.errors import BadRequest

SUFFIXES = (".md", ".json")


@dataclass(slots=True)
class Answer:
    """One reply: what a program gets from `millet ask --json`, and what a conversation keeps.

    reasoning, content: text, without the marks around the thought. finish_reason: "stop" | "length" | "loop" |
    "cancelled" (stopped by the person). thought_ended: by "model" | "budget" | "loop", None without a thought or when
    it never ended. usage: prompt_tokens, completion_tokens, reasoning_tokens, cached_tokens. seconds: the whole reply;
    thought_seconds: from the thought's first token to its end. tokens_per_second: after the first token.
    vote_share: of the replies that agreed, where several were sampled.
    """

    model: str
    reasoning: str = ""
    content: str = ""
    finish_reason: str = "cancelled"
    thought_ended: str | None = None
    usage: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    thought_seconds: float = 0.0
    tokens_per_second: float | None = None
    vote_share: float | None = None

    @property
    def stopped(self) -> bool:
        return self.finish_reason == "cancelled"

    @property
    def thought_summary(self) -> str:
        return thought_summary("Thought", self.thought_seconds, self.usage.get("reasoning_tokens", 0))

    def to_dict(self) -> dict[str, Any]:
        """All fields, for JSON; `vote_share` only where there was a vote."""
        fields = asdict(self)
        return {name: value for name, value in fields.items() if name != "vote_share" or value is not None}


def thought_summary(verb: str, seconds: float, tokens: int) -> str:
    """For example "Thought for 3.2 s, 87 tokens"."""
    return f"{verb} for {seconds:.1f} s, {tokens} token{'' if tokens == 1 else 's'}"


@dataclass(slots=True)
class Turn:
    """A question and its reply; None while there is none."""

    question: str
    answer: Answer | None = None


@dataclass(slots=True)
class Conversation:
    """Turns in order. The first `forgotten` ones are kept and saved, but no longer shown to the model."""

    system: str | None = None
    turns: list[Turn] = field(default_factory=list)
    forgotten: int = 0
    started: datetime = field(default_factory=lambda: datetime.now().astimezone())

    def ask(self, question: str) -> Turn:
        """Add a turn that waits for its reply."""
        self.turns.append(Turn(question))
        return self.turns[-1]

    def forget_oldest(self) -> bool:
        """Show the model one turn less; False where only the last one is left."""
        if self.forgotten >= len(self.turns) - 1:
            return False
        self.forgotten += 1
        return True

    def messages(self) -> list[dict[str, str]]:
        """What the model is shown: questions and answers without earlier thoughts.

        A reply that was stopped before its answer began is left out, and its question joins the next one, so that
        roles still alternate, as many chat templates demand.
        """
        messages = [{"role": "system", "content": self.system}] if self.system else []
        waiting: list[str] = []
        for turn in self.turns[self.forgotten :]:
            waiting.append(turn.question)
            if turn.answer and turn.answer.content:
                messages.append({"role": "user", "content": "\n\n".join(waiting)})
                messages.append({"role": "assistant", "content": turn.answer.content})
                waiting = []
        if waiting:
            messages.append({"role": "user", "content": "\n\n".join(waiting)})
        return messages

    def to_json(self) -> str:
        """One object: when it started, and the messages with everything known about each reply."""
        messages: list[dict[str, Any]] = [{"role": "system", "content": self.system}] if self.system else []
        for turn in self.turns:
            messages.append({"role": "user", "content": turn.question})
            if turn.answer:
                messages.append({"role": "assistant", **turn.answer.to_dict()})
        return (
            json.dumps({"started": self.started.isoformat(), "messages": messages}, ensure_ascii=False, indent=2) + "\n"
        )

    def to_markdown(self) -> str:
        """A page to read: thoughts folded away, replies under the name of the model that gave them."""
        parts = [f"# Conversation of {self.started:%Y-%m-%d %H:%M}"]
        if self.system:
            parts += ["## System", self.system]
        for turn in self.turns:
            parts += ["## You", turn.question]
            if turn.answer:
                parts += [f"## {turn.answer.model}", *_markdown_reply(turn.answer)]
        return "\n\n".join(parts) + "\n"

    def save(self, path: Path, *, overwrite: bool = False) -> None:
        """Write the conversation, as its suffix says, in one atomic step.

        Raises BadRequest where the suffix is not one of SUFFIXES, the file exists (unless `overwrite`), or cannot be
        written; no half-written file is left.
        """
        path = path.expanduser()
        if path.suffix.lower() not in SUFFIXES:
            raise BadRequest(f"{path.name} ends in neither .md nor .json; name the file so that its form is clear")
        if path.exists() and not overwrite:
            raise BadRequest(f"{path} exists; choose another name, or overwrite it with /save! {path}")
        path = path.resolve()  # through a link, so that its target is replaced and the link stays
        text = self.to_json() if path.suffix.lower() == ".json" else self.to_markdown()
        part = path.with_name(f".{path.name}.{os.getpid()}.part")
        try:
            try:
                with open(part, "x", encoding="utf-8", errors="replace") as file:
                    file.write(text)
                    file.flush()
                    os.fsync(file.fileno())
                part.replace(path)
            finally:
                part.unlink(missing_ok=True)
        except OSError as error:
            raise BadRequest(f"{path} cannot be written ({error.strerror}); choose another place") from error


def _markdown_reply(answer: Answer) -> list[str]:
    parts = []
    if answer.reasoning:
        summary = f"<details><summary>{answer.thought_summary}</summary>"
        parts += [summary, "\n".join(f"> {line}".rstrip() for line in answer.reasoning.split("\n")), "</details>"]
    if answer.content:
        parts.append(answer.content)
    if answer.stopped:
        parts.append("*(stopped)*")
    return parts
