"""Stages that write data do so in batches: each is on disk, whole, when it is done, with what there is to tell of it.

A batch is a file: its conversations, one a line, and in its last line its metrics. So what there is of data, curves and
cost is what is on disk, however a run ended, and the next run goes on with the batches that are not there yet.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from millet.errors import MilletError
from millet.train.checkpoint import write_atomically
from millet.train.ledger import Ledger
from millet.train.metrics import StepLog, read_log
from millet.train.preflight import time_and_cost
from millet.train.signals import Signals, Stopped
from millet.train.stage import Context

FOLDER = "batches"  # in the stage's


@dataclass(frozen=True, slots=True)
class Batch:
    """record: its line of metrics.jsonl, of which `step` counts batches as they were done."""

    conversations: list[dict[str, Any]]
    record: dict[str, Any]

    def sample(self) -> dict[str, Any] | None:
        """Its first conversation, to be read in the report."""
        if not self.conversations:
            return None
        first = self.conversations[0]
        question, reply = first["messages"]
        read = {"question": question["content"], "thought": reply.get("reasoning", ""), "reply": reply["content"]}
        return {"step": self.record["step"], "task": first["source"]["task"], **read}


class Batches:
    """Numbers from 0 to `whole` - 1, each a file in `folder`. done: how many are on disk."""

    def __init__(self, folder: Path, whole: int) -> None:
        self.whole, self._folder = whole, folder
        self.done = len(self._paths())

    def __contains__(self, number: int) -> bool:
        return self._path(number).exists()

    def write(
        self, number: int, conversations: Sequence[dict[str, Any]], measured: Mapping[str, float], cost: Ledger
    ) -> Batch:
        """Put one on disk. measured: numbers of it by name."""
        record = {
            "step": self.done + 1,
            **measured,
            "kept": len(conversations),
            "seconds": cost.wall_seconds,
            "cost": cost.__dict__.copy(),
        }
        self._folder.mkdir(parents=True, exist_ok=True)
        write_atomically(self._path(number), lines([*conversations, record]))
        self.done += 1
        return Batch([*conversations], record)

    def read(self, numbers: Iterable[int] | None = None) -> list[Batch]:
        """Those of these numbers, or all that are on disk, by number."""
        paths = self._paths() if numbers is None else [self._path(number) for number in numbers]
        return [Batch(conversations, record) for *conversations, record in map(read_log, paths)]

    def bytes(self) -> int:
        """Of all files together."""
        return sum(path.stat().st_size for path in self._paths())

    def _paths(self) -> list[Path]:
        return sorted(self._folder.glob("*.jsonl"))

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:06d}.jsonl"


Work = Callable[[Callable[[], bool]], Iterator[Batch]]
"""Does the batches that are not on disk, one after the other, and begins no other when what it is given says so."""


def gather(batches: Batches, work: Work, stage: str, context: Context, at_once: int = 1) -> None:
    """Do what is left, and tell of each batch. at_once: batches under way together, of which the first come all late.

    Raises Stopped after a signal, when what was under way is on disk; MilletError where all would not fit on the disk.
    """
    spent = Ledger()
    with (
        StepLog(context.folder / "metrics.jsonl", 0) as metrics,
        StepLog(context.folder / "samples.jsonl", 0) as samples,
        Signals() as signals,
    ):

        def log(batch: Batch) -> None:
            metrics.write(batch.record)
            if (sample := batch.sample()) is not None:
                samples.write(sample)
            spent.add(Ledger.of(batch.record["cost"]))

        for batch in sorted(batches.read(), key=lambda batch: batch.record["step"]):
            log(batch)
        context.progress.begin(stage, batches.done, batches.whole)
        for batch in work(lambda: signals.caught):
            log(batch)
            if batches.done == at_once < batches.whole:
                context.progress.say(_forecast(spent, batches, context))
                _check_disk(batches, context.folder)
            context.progress.step(batches.done, batch.record)
    if batches.done < batches.whole:
        raise Stopped(f"stopped after batch {batches.done} of {batches.whole} and saved; run the same command to go on")


def lines(records: Iterable[Mapping[str, Any]]) -> str:
    """As JSON, one a line."""
    return "".join(json.dumps(each, ensure_ascii=False) + "\n" for each in records)


def _forecast(spent: Ledger, batches: Batches, context: Context) -> str:
    """Time and cost of all batches, from those that are done."""
    cost, times = spent.entries(context.prices), batches.whole / batches.done
    seconds, money = cost["wall_seconds"] * times, cost["money"] * times
    return time_and_cost(seconds, f"{batches.whole:,} batches", money, context.prices.currency)


def _check_disk(batches: Batches, folder: Path) -> None:
    each = batches.bytes() / batches.done
    needed, free = each * (batches.whole - batches.done + batches.whole), shutil.disk_usage(folder).free
    if needed > free:  # what is left of them, and all of them once more as one file
        raise MilletError(
            f"the data in {folder} needs about {needed / 1e9:.2g} GB more and {free / 1e9:.2g} GB are free on that "
            "disk; make room and run the same command to go on"
        )
