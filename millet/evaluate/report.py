"""The report of an evaluation, or of two on the same problems: for programs, and as a page for people."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from millet.evaluate.bootstrap import Estimate
from millet.evaluate.compare import compare
from millet.evaluate.metrics import Estimates, Summary, steps_to, summarise
from millet.evaluate.page import escape, facts, page, paragraph, section, table
from millet.evaluate.plot import curve, distribution, intervals
from millet.evaluate.provenance import Origin
from millet.evaluate.results import FAILURES, Attempt, Evaluation, Sample
from millet.evaluate.wording import columns, range_of, title, value_of

SHOWN = 2  # transcripts of each group that are right, and that are wrong; and problems that one model alone solves
LONGEST = 20_000  # characters of a text on the page


@dataclass(frozen=True, slots=True)
class Report:
    """One model's evaluation, or two with what the second adds to the first."""

    evaluations: tuple[Evaluation, ...]
    summaries: tuple[Summary, ...]
    difference: Summary | None
    origin: Origin

    @classmethod
    def of(cls, origin: Origin, first: Evaluation, second: Evaluation | None = None) -> Report:
        """Raises BadRequest for two that cannot be compared. One that was interrupted before its first reply adds
        nothing."""
        both = (first,) if second is None else (first, second)
        difference = compare(first, second) if second and first.attempts and second.attempts else None
        return cls(both, tuple(summarise(each) for each in both), difference, origin)

    @property
    def partial(self) -> bool:
        return any(evaluation.partial for evaluation in self.evaluations)

    def to_dict(self) -> dict[str, Any]:
        """For programs. Figures as shares of 1; a figure that is not defined is null."""
        models = [
            {
                "model": evaluation.model,
                "partial": evaluation.partial,
                "problems": len(evaluation.attempts),
                "asked": evaluation.asked,
                "seconds": evaluation.seconds,
                "lineage": evaluation.lineage,
                "mean": _plain(summary.mean),
                "tasks": [
                    {
                        "task": group.task,
                        "level": group.level,
                        "problems": len(attempts),
                        "grader_failures": evaluation.failures().get(group, dict.fromkeys(FAILURES, 0)),
                        "figures": _plain(summary.groups[group]),
                    }
                    for group, attempts in evaluation.groups().items()
                ],
            }
            for evaluation, summary in zip(self.evaluations, self.summaries, strict=True)
        ]
        found: dict[str, Any] = {"settings": asdict(self.evaluations[0].settings), "models": models}
        if self.difference:
            found["difference"] = {
                "mean": _plain(self.difference.mean),
                "tasks": [
                    {"task": group.task, "level": group.level, "figures": _plain(estimates)}
                    for group, estimates in self.difference.groups.items()
                ],
            }
        return found | asdict(self.origin)

    def to_html(self) -> str:
        """One page that needs nothing else."""
        names = [evaluation.model for evaluation in self.evaluations]
        parts = [paragraph(warning, "warning") for evaluation in self.evaluations for warning in warnings(evaluation)]
        parts.append(paragraph(self._in_a_sentence()))
        parts.append(section("Solved at the first try", self._forest()))
        for evaluation, summary in zip(self.evaluations, self.summaries, strict=True):
            named = "Figures" if len(names) == 1 else f"Figures of {evaluation.model}"
            parts.append(section(named, _figures(evaluation.settings.k, summary)))
        if self.difference:
            parts += [self._differences(self.difference), _changes(*self.evaluations)]
        for evaluation, summary in zip(self.evaluations, self.summaries, strict=True):
            if evaluation.attempts:
                parts.append(_plots(evaluation, summary, f" of {evaluation.model}" if len(names) > 1 else ""))
        for evaluation in self.evaluations:
            parts.append(_transcripts(evaluation, f" of {evaluation.model}" if len(names) > 1 else ""))
        parts.append(self._provenance())
        return page("Evaluation of " + " against ".join(reversed(names)), "\n".join(parts))

    def _in_a_sentence(self) -> str:
        settings = self.evaluations[0].settings
        replies = "one reply" if settings.k == 1 else f"{settings.k} replies"
        told = [
            f"{evaluation.model} solves {value_of('pass@1', summary.mean['pass@1'])} at the first try "
            f"({range_of('pass@1', summary.mean['pass@1'])}) in the mean of {len(summary.groups)} tasks."
            for evaluation, summary in zip(self.evaluations, self.summaries, strict=True)
            if summary.mean
        ]
        if self.difference and (gain := self.difference.mean["pass@1"]):
            told.append(
                f"The difference is {value_of('pass@1', gain, True)} points ({range_of('pass@1', gain, True)})."
            )
        asked = f"{settings.problems} held-out problems of each, {replies} to a problem"
        return " ".join([*told, f"{asked}; in brackets, intervals of 95% confidence."])

    def _forest(self) -> str:
        groups = list(dict.fromkeys(group for summary in self.summaries for group in summary.groups))
        rows: list[tuple[str, list[Estimate | None]]] = [
            (str(group), [summary.groups.get(group, {}).get("pass@1") for summary in self.summaries])
            for group in groups
        ]
        if len(groups) > 1:
            rows.append(("mean", [summary.mean.get("pass@1") for summary in self.summaries]))
        names = [evaluation.model for evaluation in self.evaluations]
        return intervals("pass@1 in per cent, with 95% intervals", rows, 0.0, 1.0, names)

    def _differences(self, difference: Summary) -> str:
        first, second = (evaluation.model for evaluation in self.evaluations)
        gains = [(str(group), [estimates["pass@1"]]) for group, estimates in difference.groups.items()]
        if len(gains) > 1:
            gains.append(("mean", [difference.mean["pass@1"]]))
        ends = [end for _, (gain,) in gains if gain for end in (gain.low, gain.high)]
        reach = min(1.0, max(0.1, *(abs(end) for end in ends)) * 1.05)
        return section(
            f"What {second} adds to {first}",
            paragraph("Shares in points of per cent, on the same problems; bold where the interval leaves out 0."),
            intervals("Difference of pass@1 in points, with 95% intervals", gains, -reach, reach, [second]),
            _figures(self.evaluations[0].settings.k, difference, signed=True),
        )

    def _provenance(self) -> str:
        origin, settings = self.origin, self.evaluations[0].settings
        pairs = [
            ("Command", origin.command),
            ("Date", origin.date),
            ("Machine", origin.machine),
            ("Versions", ", ".join(f"{name} {version}" for name, version in origin.versions.items())),
            ("Sampling", f"temperature {settings.temperature:g}, thinking {settings.think}, seed {settings.seed}"),
            ("Most tokens of a reply", str(settings.max_tokens)),
            ("Weights", settings.quantize or "as the file has them"),
        ]
        for evaluation in self.evaluations:
            pairs.append((f"Time of {evaluation.model}", f"{evaluation.seconds:,.0f} s"))
        lineage = [
            f"<h3>Lineage of {escape(evaluation.model)}</h3>\n"
            f"<pre>{escape(json.dumps(evaluation.lineage, indent=2, ensure_ascii=False))}</pre>"
            for evaluation in self.evaluations
            if evaluation.lineage is not None
        ]
        note = (
            "Intervals are bootstrapped over problems, whose replies stay together, and for the mean within each task. "
            "Where all problems agree, they reach as far as so many problems can exclude."
        )
        return section("How this was made", facts(pairs), paragraph(note, "quiet"), *lineage)


def warnings(evaluation: Evaluation) -> list[str]:
    """What a reader must know before the figures."""
    found = []
    if evaluation.partial:
        found.append(
            f"{evaluation.model}: interrupted after {len(evaluation.attempts)} of {evaluation.asked} problems. "
            "Long replies were under way still, so the figures lean towards short ones."
        )
    for group, failures in evaluation.failures().items():
        told = " and ".join(f"{count:,} x {kind}" for kind, count in failures.items() if count)
        found.append(f"{evaluation.model}: the grader of {group} failed ({told}); such replies scored 0.")
    return found


def _plain(estimates: Estimates) -> dict[str, dict[str, float] | None]:
    return {name: asdict(estimate) if estimate else None for name, estimate in estimates.items()}


def _figures(k: int, summary: Summary, signed: bool = False) -> str:
    names = columns(k)
    rows = [[escape(group), *_cells(names, estimates, signed)] for group, estimates in summary.groups.items()]
    several = len(rows) > 1
    if several:
        rows.append(["mean", *_cells(names, summary.mean, signed)])
    return table(["", *map(title, names)], rows, last_is_sum=several)


def _cells(names: Sequence[str], estimates: Mapping[str, Estimate | None], signed: bool) -> list[str]:
    cells = []
    for name in names:
        estimate = estimates[name]
        clear = signed and estimate is not None and (estimate.low > 0 or estimate.high < 0)
        value = escape(value_of(name, estimate, signed))
        shown = f'<span class="clear">{value}</span>' if clear else value
        cells.append(f"{shown}<small>{escape(range_of(name, estimate, signed))}</small>")
    return cells


def _plots(evaluation: Evaluation, summary: Summary, whose: str) -> str:
    k, samples = evaluation.settings.k, [sample for attempt in evaluation.attempts for sample in attempt.samples]
    found = []
    if k > 1:
        points = {step: estimate for step in steps_to(k) if (estimate := summary.mean[f"pass@{step}"])}
        found.append(curve("pass@k, mean over tasks, with 95% intervals", points, "k"))
    if any(sample.thought for sample in samples):
        thoughts = [sample.reasoning_tokens for sample in samples]
        found.append(distribution("How long the thoughts are: replies by tokens of thought", thoughts, "tokens"))
    else:
        lengths = [sample.completion_tokens for sample in samples]
        found.append(distribution("How long the replies are: replies by tokens", lengths, "tokens"))
    return section(f"Length and further tries{whose}" if k > 1 else f"Length{whose}", *found)


def _changes(first: Evaluation, second: Evaluation) -> str:
    """Problems that one of two models solves at the first try and the other does not, with what both of them say."""
    parts = []
    earlier = {(attempt.group, attempt.index): attempt for attempt in first.attempts}
    for group, attempts in second.groups().items():
        pairs = [(earlier[group, each.index], each) for each in attempts if (group, each.index) in earlier]
        changed = [pair for pair in pairs if pair[0].samples[0].solved != pair[1].samples[0].solved]
        gained = [pair for pair in changed if pair[1].samples[0].solved]
        lost = [pair for pair in changed if not pair[1].samples[0].solved]
        if changed:
            parts.append(f"<h3>{escape(group)}: {len(gained)} gained, {len(lost)} lost</h3>")
            names = (first.model, second.model)
            parts += [_change("gained", "right", names, *pair) for pair in gained[:SHOWN]]
            parts += [_change("lost", "wrong", names, *pair) for pair in lost[:SHOWN]]
    if not parts:
        return ""
    told = (
        f"What one of the two solves at the first try and the other does not: of each task the first {SHOWN} problems."
    )
    return section(f"Before and after: {first.model}, {second.model}", paragraph(told, "quiet"), *parts)


def _change(what: str, kind: str, names: tuple[str, str], before: Attempt, after: Attempt) -> str:
    texts = [("Problem", before.prompt)]
    for name, attempt in zip(names, (before, after), strict=True):
        texts += [(f"{name}: thought", attempt.samples[0].reasoning), (f"{name}: answer", attempt.samples[0].content)]
    texts.append(("Expected", before.expected))
    shown = "".join(f"<h4>{escape(name)}</h4><pre>{escape(_clipped(text))}</pre>" for name, text in texts if text)
    return (
        f'<details><summary><span class="{kind}">{what}</span> · problem {before.index}</summary>'
        f"<div>{shown}</div></details>"
    )


def _transcripts(evaluation: Evaluation, whose: str) -> str:
    parts = []
    for group, attempts in evaluation.groups().items():
        replies = [(attempt, sample) for attempt in attempts for sample in attempt.samples[:1]]
        right = [reply for reply in replies if reply[1].solved][:SHOWN]
        wrong = [reply for reply in replies if not reply[1].solved][:SHOWN]
        parts.append(f"<h3>{escape(group)}</h3>")
        parts += [_transcript(attempt, sample) for attempt, sample in right + wrong]
    intro = paragraph(f"Of each task the first {SHOWN} that are right and the first {SHOWN} that are wrong.", "quiet")
    return section(f"Transcripts{whose}", intro, *parts)


def _transcript(attempt: Attempt, sample: Sample) -> str:
    kind = "right" if sample.solved else "wrong"
    texts = {
        "Problem": attempt.prompt,
        "Thought": sample.reasoning,
        "Answer": sample.content,
        "Expected": attempt.expected,
    }
    shown = "".join(f"<h4>{name}</h4><pre>{escape(_clipped(text))}</pre>" for name, text in texts.items() if text)
    about = f"problem {attempt.index}, {sample.completion_tokens} tokens, score {sample.score:g}"
    reason = f"<h4>Grader</h4><pre>{escape(_clipped(sample.reason))}</pre>" if sample.reason else ""
    return (
        f'<details><summary><span class="{kind}">{kind}</span> · {escape(about)}</summary>'
        f"<div>{shown}{reason}</div></details>"
    )


def _clipped(text: str) -> str:
    if len(text) <= LONGEST:
        return text
    return f"{text[:LONGEST]}\n[{len(text) - LONGEST:,} more characters]"
