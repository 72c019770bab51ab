"""The far end of `millet bench grpo`: one trainer in a process of its own, which takes one step when it is told to.

`python -m millet.bench.grpo_worker NAME`, where NAME is millet or trl. Both ask the same questions, sample as many
replies from the model itself, and have them judged by the same function; AdamW, clipping of gradients and R1's average;
no KL term, no group replaced. Both compute in fp32; but for Millet's adapter, whose base stays in the 4 or 8 bits of
its file (for sampling, too), as it does by default in a recipe.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any, Protocol

import psutil

from millet.bench.sft_worker import ALPHA, CLIP, PACKAGES, RANK, RATE
from millet.bench.stories import Stories, lateness
from millet.bench.worker import answer_all, own_output

PARTS = ("rollout", "grading", "forward", "backward", "update")

Shape = Mapping[str, Any]
"""steps; questions of a step; replies to each; max_tokens of a reply; sampler: the weights that Millet samples with."""


class Trainer(Protocol):
    def step(self) -> dict[str, Any]:
        """Take the next step. parts: seconds, by the names of PARTS. prompt_tokens, reply_tokens: of all replies
        together. signal: the share of groups that have any. mismatch: of sampler and trainer, where it is known."""
        ...


class MilletTrainer:
    def __init__(self, model: str, prompts: list[str], lora: bool, shape: Shape) -> None:
        from millet.engine.engine import Engine
        from millet.models.load import load
        from millet.reasoning.assistant import Assistant
        from millet.tasks.grading import Graders
        from millet.train.grpo import GrpoMethod, GrpoSettings, quantise_sampler
        from millet.train.lora import LoraConfig
        from millet.train.optimizer import Optimizer, OptimizerSettings
        from millet.train.policy_loss import Objective
        from millet.train.trainee import Trainee

        settings = GrpoSettings(
            questions=shape["questions"],
            replies=shape["replies"],
            max_tokens=shape["max_tokens"],
            rounds=1,
            format_reward=0.0,
            objective=Objective(clip_low=0.2, clip_high=0.2, kl=0.0),
        )
        trainee = Trainee(load(model, dtype=None if lora else "float32"), LoraConfig(RANK, ALPHA) if lora else None)
        if shape["sampler"] == "q8" and not trainee.model.quantised:
            quantise_sampler(trainee.model)
        rollouts = counting(
            Assistant(Engine(trainee.model, cache_tokens=16384)), think="off", max_tokens=settings.max_tokens
        )
        self._rollouts = rollouts
        self._method = GrpoMethod(trainee, rollouts, [Stories()], Graders(), settings, seed=0)
        self._optimizer = Optimizer(trainee.parameters, OptimizerSettings(learning_rate=RATE, clip=CLIP))
        self._done = 0

    def step(self) -> dict[str, Any]:
        backward = 0.0
        for micro in self._method.micro_batches(self._done):
            began = time.perf_counter()
            micro.loss.backward()
            self._optimizer.collect()
            backward += time.perf_counter() - began
        began = time.perf_counter()
        self._optimizer.step(1.0, self._optimizer.norm())
        self._optimizer.clear()
        self._done += 1
        found = self._method.metrics()
        parts = {name: found[f"{name}_seconds"] for name in ("rollout", "grading", "forward")}
        parts |= {"backward": backward, "update": time.perf_counter() - began}
        signal = 1 - (found["zero_signal"] or 0.0)
        told = {"signal": signal, "mismatch": found["mismatch"]}
        return {"parts": parts, **count(self._rollouts.groups), **told}


def counting(*args: Any, **settings: Any) -> Any:
    """`Rollouts` that keeps the groups of the last step."""
    from millet.train.rollout import Group, Rollouts

    class Counting(Rollouts):
        groups: list[Group]

        def sample(self, *asked: Any) -> list[Group]:
            self.groups = super().sample(*asked)
            return self.groups

    return Counting(*args, **settings)


def count(groups: Sequence[Any]) -> dict[str, int]:
    """prompt_tokens and reply_tokens: of all replies, each with its prompt. distinct_tokens: of both, where what the
    replies of a group begin with alike counts once."""
    from millet.train.prefixes import distinct

    sequences = [[[*group.prompt, *sample.token_ids] for sample in group.samples] for group in groups]
    return {
        "prompt_tokens": sum(len(group.prompt) * len(group.samples) for group in groups),
        "reply_tokens": sum(len(sample.token_ids) for group in groups for sample in group.samples),
        "distinct_tokens": sum(map(distinct, sequences)),
    }


class TrlTrainer:
    """TRL's GRPOTrainer without gradient checkpointing, which is faster where memory is not short. All replies of a
    step are sampled at once; `micro` of them are learned from at once."""

    def __init__(self, model: str, prompts: list[str], lora: bool, shape: Shape, micro: int = 8) -> None:
        from datasets import Dataset
        from peft import LoraConfig
        from trl import GRPOConfig, GRPOTrainer

        from millet.bench.held import Held

        batch = shape["questions"] * shape["replies"]
        micro = min(micro, batch)
        settings = GRPOConfig(
            output_dir=str(Path(model) / "trl"),
            per_device_train_batch_size=micro,
            gradient_accumulation_steps=batch // micro,
            num_generations=shape["replies"],
            max_completion_length=shape["max_tokens"],
            temperature=1.0,
            beta=0.0,
            loss_type="grpo",
            shuffle_dataset=False,
            gradient_checkpointing=False,
            bf16=False,
            use_cpu=True,
            learning_rate=RATE,
            max_grad_norm=CLIP,
            lr_scheduler_type="constant",
            max_steps=shape["steps"],
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            model_init_kwargs={"dtype": "float32"},
        )
        adapter = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules="all-linear", task_type="CAUSAL_LM")
        self._held = Held()
        self._tokens = [0, 0]
        trainer = GRPOTrainer(
            model,
            reward_funcs=self._reward,
            args=settings,
            train_dataset=Dataset.from_list([{"prompt": [{"role": "user", "content": text}]} for text in prompts]),
            peft_config=adapter if lora else None,
            callbacks=[self._held],
        )
        self._parts = dict.fromkeys(PARTS, 0.0)
        for part, owner, name in (
            ("rollout", trainer, "_generate"),
            ("grading", trainer, "_calculate_rewards"),
            ("forward", trainer, "compute_loss"),
            ("backward", trainer.accelerator, "backward"),
        ):
            setattr(owner, name, self._timed(part, getattr(owner, name)))
        self._tokenizer = trainer.processing_class
        self._held.start(trainer)

    def step(self) -> dict[str, Any]:
        self._parts = dict.fromkeys(PARTS, 0.0)
        began = time.perf_counter()
        logs = self._held.step()
        self._parts["update"] = time.perf_counter() - began - sum(self._parts.values())
        prompt_tokens, reply_tokens = self._tokens
        signal = 1 - logs["frac_reward_zero_std"]
        told = {"signal": signal, "mismatch": None}  # it has no log-probabilities from its sampling
        return {"parts": self._parts, "prompt_tokens": prompt_tokens, "reply_tokens": reply_tokens, **told}

    def _reward(self, prompts: list[Any], completions: list[Any], completion_ids: list[Any], **_: Any) -> list[float]:
        asked = [self._tokenizer.apply_chat_template(p, add_generation_prompt=True, tokenize=False) for p in prompts]
        lengths = [len(self._tokenizer(text, add_special_tokens=False)["input_ids"]) for text in asked]
        self._tokens = [sum(lengths), sum(map(len, completion_ids))]
        return [lateness(completion[0]["content"]) for completion in completions]

    def _timed(self, part: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            try:
                return call(*args, **kwargs)
            finally:
                self._parts[part] += time.perf_counter() - began

        return timed


TRAINERS: dict[str, Callable[[str, list[str], bool, Shape], Trainer]] = {"millet": MilletTrainer, "trl": TrlTrainer}


def serve(name: str, commands: IO[str], answers: IO[str]) -> None:
    """The far end: answer commands until there are no more."""
    trainer: list[Trainer] = []

    def do(command: Mapping[str, Any]) -> dict[str, Any]:
        match command["do"]:
            case "start":
                trainer.append(TRAINERS[name](command["model"], command["prompts"], command["lora"], command["shape"]))
                return {"versions": {package: version(package) for package in PACKAGES[name]}}
            case "step":
                helpers = psutil.Process().children(recursive=True)
                return trainer[0].step() | {"helper_bytes": sum(each.memory_info().rss for each in helpers)}
        return {}

    answer_all(commands, answers, do)


if __name__ == "__main__":
    serve(sys.argv[1], sys.stdin, own_output())
