"""The far end of `millet bench sft`: one trainer in a process of its own, which takes one step when it is told to.

`python -m millet.bench.sft_worker NAME`, where NAME is millet or trl. Both are given the same packed batches of token
ids, AdamW and gradient clipping, and compute in fp32; but for Millet's adapter, whose base stays in the 4 or 8 bits of
its file, as it does by default in a recipe.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any, Protocol

import torch

from millet.bench.worker import answer_all, own_output, peak_memory

RANK, ALPHA, RATE, CLIP = 16, 32, 1e-5, 1.0  # learning so slowly that every step is alike

Sequences = list[tuple[list[int], int]]
"""Token ids, and the index of the first that is learned."""


class Trainer(Protocol):
    def step(self) -> float:
        """Take the next step; returns its loss."""
        ...


class MilletTrainer:
    def __init__(self, model: str, batches: list[Sequences], lora: bool) -> None:
        from millet.models.load import load
        from millet.train.lora import LoraConfig
        from millet.train.optimizer import Optimizer, OptimizerSettings
        from millet.train.trainee import Trainee

        self._trainee = Trainee(
            load(model, dtype=None if lora else "float32"), LoraConfig(RANK, ALPHA) if lora else None
        )
        self._optimizer = Optimizer(self._trainee.parameters, OptimizerSettings(learning_rate=RATE, clip=CLIP))
        self._batches = iter(batches)

    def step(self) -> float:
        batch = next(self._batches)
        logprobs = self._trainee.logprobs([ids for ids, _ in batch], [first for _, first in batch])
        loss = -torch.cat(logprobs).mean()
        loss.backward()
        self._optimizer.collect()
        self._optimizer.step(1.0, self._optimizer.norm())
        self._optimizer.clear()
        return float(loss)


class TrlTrainer:
    """TRL's SFTTrainer without gradient checkpointing, which is faster where memory is not short. Its data look as
    its own packing leaves them, but a batch is the batch that Millet has, too."""

    def __init__(self, model: str, batches: list[Sequences], lora: bool) -> None:
        from datasets import Dataset
        from peft import LoraConfig
        from trl import SFTConfig, SFTTrainer

        from millet.bench.held import Held

        settings = SFTConfig(
            output_dir=str(Path(model) / "trl"),
            per_device_train_batch_size=1,
            padding_free=True,
            max_length=None,
            dataset_kwargs={"skip_prepare_dataset": True},
            train_sampling_strategy="sequential",
            gradient_checkpointing=False,
            bf16=False,
            use_cpu=True,
            learning_rate=RATE,
            max_grad_norm=CLIP,
            lr_scheduler_type="constant",
            max_steps=len(batches),
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            model_init_kwargs={"dtype": "float32"},
        )
        adapter = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules="all-linear", task_type="CAUSAL_LM")
        self._held = Held()
        trainer = SFTTrainer(
            model,
            args=settings,
            train_dataset=Dataset.from_list([packed(batch) for batch in batches]),
            peft_config=adapter if lora else None,
            callbacks=[self._held],
        )
        self._held.start(trainer)

    def step(self) -> float:
        return float(self._held.step()["loss"])


def packed(batch: Sequences) -> dict[str, list[int]]:
    """A row of TRL's packed data: sequences end to end, and where each ends. -100 marks what is not learned."""
    return {
        "input_ids": [token for ids, _ in batch for token in ids],
        "labels": [label for ids, first in batch for label in [-100] * first + ids[first:]],
        "seq_lengths": [len(ids) for ids, _ in batch],
    }


TRAINERS: dict[str, Callable[[str, list[Sequences], bool], Trainer]] = {"millet": MilletTrainer, "trl": TrlTrainer}
PACKAGES = {"millet": ("torch",), "trl": ("torch", "transformers", "trl", "peft")}


def serve(name: str, commands: IO[str], answers: IO[str]) -> None:
    """The far end: answer commands until there are no more."""
    trainer: list[Trainer] = []

    def do(command: Mapping[str, Any]) -> dict[str, Any]:
        match command["do"]:
            case "start":
                batches = [[(ids, first) for ids, first in batch] for batch in command["batches"]]
                trainer.append(TRAINERS[name](command["model"], batches, command["lora"]))
                return {"versions": {package: version(package) for package in PACKAGES[name]}, "bytes": peak_memory()}
            case "step":
                return {"loss": trainer[0].step()}
        return {}

    answer_all(commands, answers, do)


if __name__ == "__main__":
    serve(sys.argv[1], sys.stdin, own_output())
