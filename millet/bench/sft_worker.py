"""The far end of `millet bench sft`: one trainer in a process of its own, which takes one step when it is told to.

`python -m millet.bench.sft_worker NAME`, where NAME is millet or trl. Both are given the same packed batches of token
ids, fp32, AdamW and gradient clipping.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any, Protocol

import torch

from millet.bench.worker import answer_all, own_output, peak_memory
from millet.errors import MilletError

RANK, ALPHA, RATE, CLIP = 16, 32, 1e-5, 1.0  # learning so slowly that every step is alike

Sequences = list[tuple[list[int], int]]
"""Token ids, and the index of the first that is learned."""


class Trainer(Protocol):
    def step(self) -> float:
        """Take the next step; returns its loss."""
        ...


class MilletTrainer:
    def __init__(self, model: str, batches: list[Sequences], lora: bool, length: int) -> None:
        from millet.models.load import load
        from millet.train.lora import LoraConfig
        from millet.train.optimizer import Optimizer, OptimizerSettings
        from millet.train.trainee import Trainee

        self._trainee = Trainee(load(model, dtype="float32"), LoraConfig(RANK, ALPHA) if lora else None)
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
    """TRL's SFTTrainer with its own packing and without gradient checkpointing, which is faster where memory is not
    short. It runs in a thread; a callback holds it between steps."""

    def __init__(self, model: str, batches: list[Sequences], lora: bool, length: int) -> None:
        from datasets import Dataset
        from peft import LoraConfig
        from transformers import TrainerCallback
        from trl import SFTConfig, SFTTrainer

        self._go, self._done = threading.Semaphore(0), threading.Semaphore(0)
        self._losses: list[float] = []
        self._error: BaseException | None = None
        trainer = self

        class Held(TrainerCallback):
            def on_step_begin(self, *_: Any, **__: Any) -> None:
                trainer._go.acquire()

            def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **__: Any) -> None:
                if logs and "loss" in logs:
                    trainer._losses.append(float(logs["loss"]))
                    trainer._done.release()

        rows = [
            {"input_ids": ids, "completion_mask": [0] * first + [1] * (len(ids) - first)}
            for batch in batches
            for ids, first in batch
        ]
        settings = SFTConfig(
            output_dir=str(Path(model) / "trl"),
            per_device_train_batch_size=1,
            packing=True,
            max_length=length,
            completion_only_loss=True,
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
        self._trainer = SFTTrainer(
            model,
            args=settings,
            train_dataset=Dataset.from_list(rows),
            peft_config=adapter if lora else None,
            callbacks=[Held()],
        )
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        try:
            self._trainer.train()
        except BaseException as error:  # told to the near end at its next step
            self._error = error
            self._done.release()

    def step(self) -> float:
        self._go.release()
        self._done.acquire()
        if self._error is not None:
            raise MilletError(str(self._error) or repr(self._error))
        return self._losses[-1]


TRAINERS: dict[str, Callable[[str, list[Sequences], bool, int], Trainer]] = {"millet": MilletTrainer, "trl": TrlTrainer}
PACKAGES = {"millet": ("torch",), "trl": ("torch", "transformers", "trl", "peft")}


def serve(name: str, commands: IO[str], answers: IO[str]) -> None:
    """The far end: answer commands until there are no more."""
    trainer: list[Trainer] = []

    def do(command: Mapping[str, Any]) -> dict[str, Any]:
        match command["do"]:
            case "start":
                batches = [[(ids, first) for ids, first in batch] for batch in command["batches"]]
                trainer.append(TRAINERS[name](command["model"], batches, command["lora"], command["length"]))
                return {"versions": {package: version(package) for package in PACKAGES[name]}, "bytes": peak_memory()}
            case "step":
                return {"loss": trainer[0].step()}
        return {}

    answer_all(commands, answers, do)


if __name__ == "__main__":
    serve(sys.argv[1], sys.stdin, own_output())
