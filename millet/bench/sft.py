"""`millet bench sft`: steps of supervised fine-tuning, Millet's trainer and its peers by turns on the same chats.

Sequences are packed to a fixed number of tokens a step. A trainer's speed is the tokens of its steps over their time,
optimiser included. "Of the roof" holds the arithmetic that a step cannot do without against what this machine's matrix
products have been measured to reach in the same run.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

import torch

from millet.bench.report import heading
from millet.bench.worker import Worker
from millet.errors import BadRequest
from millet.kernels.roof import measure_roof
from millet.models.config import ModelConfig
from millet.models.load import load
from millet.train.data import Example, Renderer, render_files
from millet.train.prefixes import in_common

PEERS = ("trl",)
LENGTH = 2048  # tokens of a step
CHATS = Path(__file__).with_name("chats.jsonl")
"""Conversations where no others are given: questions of recipes/millet-135m, answered by SmolLM2 (Apache-2.0)."""

Say = Callable[[str], None]


def bench_sft(
    model: str,
    data: Path,
    *,
    peers: Sequence[str] = PEERS,
    rounds: int = 3,
    threads: int | None = None,
    length: int = LENGTH,
    say: Say = lambda text: None,
) -> dict[str, Any]:
    """Tokens/s with all weights and with an adapter, medians over rounds, peak memory, and the share of the roof.

    data: JSONL of conversations, of which enough are taken. Raises MilletError when a peer is not installed, BadRequest
    when the data are too few.
    """
    unknown = [peer for peer in peers if peer not in PEERS]
    if unknown:
        raise BadRequest(f"the peer {unknown[0]!r} is unknown; use {', '.join(PEERS)}")
    threads = threads or torch.get_num_threads()
    report = heading(model, threads, rounds) | {"tokens_per_step": length}
    with tempfile.TemporaryDirectory() as folder:
        say("preparing model and data")
        loaded = load(model, dtype="float32")
        batches = batches_of(render_files([(data, Renderer(loaded))]), rounds + 1, length)
        loaded.save(Path(folder) / "model")
        config = loaded.config
        del loaded
        for kind in ("full", "lora"):
            homes = {name: model if name == "millet" else str(Path(folder) / "model") for name in ("millet", *peers)}
            report[kind] = _by_turns(homes, batches, kind, config, threads, say, report)
    return report


def batches_of(examples: Sequence[Example], count: int, length: int) -> list[list[tuple[list[int], int]]]:
    """`count` batches of at most `length` tokens each, of sequences in their order."""
    batches: list[list[tuple[list[int], int]]] = [[]]
    room = length
    for example in examples:
        if len(example) > length:
            continue
        if len(example) > room:
            if len(batches) == count:
                return batches
            batches.append([])
            room = length
        batches[-1].append((example.ids.tolist(), example.first))
        room -= len(example)
    raise BadRequest(f"the data have fewer than {count} batches of {length} tokens; give more, or fewer rounds")


def useful_flops(config: ModelConfig, batch: Sequence[tuple[list[int], int]], lora: bool) -> float:
    """Multiplications and additions of a step: forward, gradients of what goes in and, in full training, of weights.

    The head is needed where a token is learned, and what all prompts begin with is needed once. Attention, and an
    adapter's own products, are left out as small.
    """
    head = config.vocab_size * config.hidden_size
    embedding = head if config.tie_word_embeddings else 2 * head
    repeated = (len(batch) - 1) * in_common([ids[:first] for ids, first in batch])
    tokens, learned = sum(len(ids) for ids, _ in batch) - repeated, sum(len(ids) - first for ids, first in batch)
    return (4 if lora else 6) * float((config.num_parameters - embedding) * tokens + head * learned)


def _by_turns(
    homes: dict[str, str],
    batches: list[list[tuple[list[int], int]]],
    kind: str,
    config: ModelConfig,
    threads: int,
    say: Say,
    report: dict[str, Any],
) -> dict[str, Any]:
    """homes: where each contender reads the model; for peers it is an fp32 directory."""
    names = list(homes)
    speeds: dict[str, list[float]] = {name: [] for name in names}
    losses: dict[str, list[float]] = {name: [] for name in names}
    peaks: dict[str, int] = {}
    shares: list[float] = []
    with ExitStack() as stack:
        workers = {}
        for name in names:
            say(f"{kind}: starting {name}")
            workers[name] = stack.enter_context(
                Worker(name, threads, "millet.bench.sft_worker", trains=name == "millet")
            )
            started = workers[name].call("start", model=homes[name], batches=batches, lora=kind == "lora")
            report["versions"] |= started["versions"]
        for number, batch in enumerate(batches):
            roof = measure_roof().fp32
            for name in names if number % 2 else reversed(names):
                say(f"{kind}: step {number} of {len(batches) - 1}, {name}")
                answer = workers[name].call("step")
                peaks[name] = answer["peak_bytes"]
                losses[name].append(answer["loss"])
                if number == 0:  # warming up
                    continue
                speeds[name].append(sum(len(ids) for ids, _ in batch) / answer["seconds"])
                if name == "millet":
                    shares.append(useful_flops(config, batch, kind == "lora") / answer["seconds"] / 1e9 / roof)
    found: dict[str, Any] = {
        name: {
            "tokens_per_second": median(speeds[name]),
            "tokens_per_second_by_round": speeds[name],
            "peak_bytes": peaks[name],
            "losses": losses[name],
        }
        for name in names
    }
    found["of_the_roof"] = median(shares)
    found["ratios"] = {
        name: median(a / b for a, b in zip(speeds["millet"], speeds[name], strict=True))
        for name in names
        if name != "millet"
    }
    return found
