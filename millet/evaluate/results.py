"""What an evaluation has seen: every reply with its grade, by problem, and its form on disk as lines of JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from millet.errors import BadRequest
from millet.reasoning.prompt import Think

if TYPE_CHECKING:
    from millet.models.packing import Quantize

FAILURES = ("timeout", "error")  # how the reasons of `Graders` begin where a grader hung, raised or died


class Group(NamedTuple):
    """The problems of one task at one level."""

    task: str
    level: int

    def __str__(self) -> str:
        return f"{self.task}, level {self.level}" if self.level else self.task


@dataclass(frozen=True, slots=True)
class Settings:
    """How replies are sampled.

    problems: of each group. k: replies to each problem. max_tokens: of a reply, the thought included. seed: of the
    sampling; the problems are always the same. quantize: how weights are kept; None for as the file has them.
    """

    problems: int = 200
    k: int = 1
    temperature: float = 0.6
    max_tokens: int = 1024
    think: Think = "on"
    seed: int = 0
    quantize: Quantize | None = None

    def __post_init__(self) -> None:
        if self.problems < 1 or self.k < 1:
            raise BadRequest(f"{self.problems} problems and k = {self.k}; both must be at least 1")
        if self.k > 1 and self.temperature == 0:
            raise BadRequest(f"at temperature 0 all {self.k} replies would be the same; raise it, or leave out k")


@dataclass(frozen=True, slots=True)
class Sample:
    """One reply. answer: what the task takes as its answer; replies agree where these are equal strings. None where
    nobody can tell whether they agree, as of code. score: in [0, 1], with the grader's reason. thought_ended,
    finish_reason: as in `Reply`. Tokens, and seconds from the request to the end."""

    reasoning: str
    content: str
    answer: str | None
    score: float
    reason: str
    finish_reason: str
    thought_ended: str | None
    completion_tokens: int
    reasoning_tokens: int
    seconds: float

    @property
    def solved(self) -> bool:
        return self.score >= 1.0

    @property
    def thought(self) -> bool:
        """Whether there is a thought, if only an unfinished one."""
        return self.reasoning_tokens > 0


@dataclass(frozen=True, slots=True)
class Attempt:
    """One problem with the replies to it. index: of the problem in its group."""

    group: Group
    index: int
    prompt: str
    expected: str
    samples: tuple[Sample, ...]


@dataclass(slots=True)
class Evaluation:
    """One model on its problems, in order. asked: how many problems there were to be; fewer attempts than that mean
    that it was interrupted. seconds: of sampling. lineage: what the model's training wrote about it, None where nothing
    did."""

    model: str
    settings: Settings
    attempts: list[Attempt]
    asked: int
    seconds: float
    lineage: Any = None

    @property
    def partial(self) -> bool:
        return len(self.attempts) < self.asked

    def groups(self) -> dict[Group, list[Attempt]]:
        """Attempts by group, in the order in which these were asked for."""
        found: dict[Group, list[Attempt]] = {}
        for attempt in self.attempts:
            found.setdefault(attempt.group, []).append(attempt)
        return found

    def failures(self) -> dict[Group, dict[str, int]]:
        """How often the graders of a group failed, by how, where they did; such replies scored 0."""
        found: dict[Group, dict[str, int]] = {}
        for attempt in self.attempts:
            for sample in attempt.samples:
                for kind in FAILURES:
                    if sample.score == 0 and sample.reason.startswith(kind):
                        counts = found.setdefault(attempt.group, dict.fromkeys(FAILURES, 0))
                        counts[kind] += 1
        return found

    def concurrency(self) -> float:
        """How many replies were under way, on average. Those that were broken off do not count."""
        under_way = sum(sample.seconds for attempt in self.attempts for sample in attempt.samples)
        return under_way / self.seconds if self.seconds else 0.0


def write_transcripts(evaluations: Iterable[Evaluation], path: Path) -> None:
    """Of each evaluation a line of JSON that says how it was asked, and one for each reply, whole texts included."""
    with path.open("w", encoding="utf-8") as file:
        for evaluation in evaluations:
            for line in (_head(evaluation), *transcripts(evaluation)):
                file.write(json.dumps(line, ensure_ascii=False) + "\n")


def read_transcripts(path: Path) -> Evaluation:
    """What `write_transcripts` wrote; of several evaluations the last, which is the model's and not that of what it was
    compared with. Raises BadRequest for a file that is none of these."""
    try:
        # Not splitlines(): a text may have U+2028 and its like, which JSON leaves as they are.
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
        start = max(number for number, line in enumerate(lines) if "settings" in line)
        head, replies = lines[start], lines[start + 1 :]
        asked: dict[tuple[Group, int], list[dict[str, Any]]] = {}
        for line in replies:
            asked.setdefault((Group(line["task"], line["level"]), line["index"]), []).append(line)
        attempts = [
            Attempt(group, index, of[0]["prompt"], of[0]["expected"], tuple(_sample(line) for line in of))
            for (group, index), of in asked.items()
        ]
        settings, known = Settings(**head["settings"]), (head["asked"], head["seconds"], head["lineage"])
        return Evaluation(head["model"], settings, attempts, *known)
    except OSError as error:
        raise BadRequest(f"{path} cannot be read ({error.strerror}); check the path") from error
    except (ValueError, KeyError, TypeError) as error:
        raise BadRequest(f"{path} is not what `millet eval --transcripts` writes; make it anew with that") from error


def transcripts(evaluation: Evaluation) -> Iterator[dict[str, Any]]:
    """The lines of the replies."""
    for attempt in evaluation.attempts:
        about = {
            "model": evaluation.model,
            "task": attempt.group.task,
            "level": attempt.group.level,
            "index": attempt.index,
            "prompt": attempt.prompt,
            "expected": attempt.expected,
        }
        for number, sample in enumerate(attempt.samples):
            yield about | {"sample": number} | asdict(sample)


def _head(evaluation: Evaluation) -> dict[str, Any]:
    return {
        "model": evaluation.model,
        "settings": asdict(evaluation.settings),
        "asked": evaluation.asked,
        "seconds": evaluation.seconds,
        "lineage": evaluation.lineage,
    }


def _sample(line: dict[str, Any]) -> Sample:
    return Sample(**{field.name: line[field.name] for field in fields(Sample)})
