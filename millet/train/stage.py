"""A stage of a recipe: what it is given, and what it leaves."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch

from millet.errors import BadRequest
from millet.models.load import load
from millet.models.model import Model
from millet.train import devices
from millet.train.checkpoint import weights_hash, write_atomically
from millet.train.ledger import Arithmetic, Ledger, Prices
from millet.train.loop import Loop, LoopSettings, Method
from millet.train.lora import LoraConfig
from millet.train.preflight import check_room, forecast
from millet.train.progress import Progress
from millet.train.trainee import Trainee

TEMPLATE = "chat_template.jinja"  # of an adapter, beside it
MODEL, DATA = "model", "data.jsonl"  # what a stage leaves in its folder: a model directory, or conversations
FROM_STAGE = "stage:"


@dataclass(frozen=True)
class Context:
    """folder: where the stage may write. base: the model it starts from, by name or place. stages: the folders of
    earlier stages by name. beside: the recipe's folder, where data is looked for."""

    folder: Path
    base: str
    seed: int
    device: str | None
    prices: Prices
    progress: Progress
    beside: Path
    stages: Mapping[str, Path]

    def model(self, name: str) -> str:
        """What `load` takes for the model that a recipe calls so: what an earlier stage has made, or any other."""
        return str(self.stages[name] / MODEL) if name in self.stages else name

    def path(self, name: str) -> Path:
        """The file that a recipe calls so. Raises BadRequest where no earlier stage has the name."""
        if not name.startswith(FROM_STAGE):
            return self.beside / Path(name).expanduser()
        stage = name.removeprefix(FROM_STAGE)
        if stage not in self.stages:
            raise BadRequest(f"{name!r} names no earlier stage; there are {', '.join(self.stages) or 'none'}")
        return self.stages[stage] / DATA


@dataclass(frozen=True)
class Outcome:
    """artifact: what the stage has made. sha256: of the weights (`weights_hash`), or of the file."""

    artifact: Path
    sha256: str
    ledger: Ledger


@dataclass(frozen=True, kw_only=True)
class Stage(ABC):
    """name: what other stages and folders call it; by default its kind. base: the stage or model to start from; by
    default what the stage before it has made."""

    together: ClassVar[bool] = False
    """Whether several processes run it together; else the first alone."""
    makes_model: ClassVar[bool] = False
    """Whether it makes a model; else data."""

    name: str
    base: str | None = None

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[\w.-]+", self.name) or self.name.startswith("."):
            raise BadRequest(f"the stage's name {self.name!r} must have only letters, digits, - and _")

    def sources(self) -> tuple[str, ...]:
        """Files it reads, as the recipe calls them."""
        return ()

    def parents(self, base: str) -> tuple[str, ...]:
        """Models that decide what it makes, as the recipe calls them. base: the one that it starts from."""
        return (base,)

    def check(self) -> None:
        """Called before the first stage has cost anything. Raises MilletError where something outside of the recipe, a
        server say, is not as this stage will need it."""
        return

    @abstractmethod
    def run(self, context: Context) -> Outcome:
        """All of it, or what is left of it where it was interrupted."""


@dataclass(frozen=True, kw_only=True)
class TrainingStage(Stage, LoopSettings):
    """A stage that changes weights in the shared loop.

    lora: train an adapter and leave the model as it is; by default all weights learn. checkpointing: keep fewer
    activations and compute them twice, where memory is short. exact: compute in the bits of an exact engine.
    """

    together: ClassVar[bool] = True
    makes_model: ClassVar[bool] = True

    lora: LoraConfig | None = None
    checkpointing: bool = False
    exact: bool = False

    def __post_init__(self) -> None:
        Stage.__post_init__(self)
        LoopSettings.__post_init__(self)

    @abstractmethod
    def prepare(self, trainee: Trainee, context: Context) -> tuple[Method, int]:
        """The method, and how many steps it takes. Raises MilletError for what cannot work."""

    def run(self, context: Context) -> Outcome:
        gpu = torch.device(context.device or ("cuda" if torch.cuda.is_available() else "cpu")).type == "cuda"
        if gpu:
            devices.check_gpus()
        as_it_is = self.lora is not None and self.lora.quantised
        context.progress.say(f"{self.name}: loading {context.base}")
        model = load(context.base, dtype="bfloat16" if gpu else None if as_it_is else "float32", device=context.device)
        torch.manual_seed(context.seed)
        trainee = Trainee(model, self.lora, self.checkpointing, self.exact)
        method, steps = self.prepare(trainee, context)
        with closing(method):
            ledger = self._loop(trainee, method, steps, context)
        artifact = context.folder / MODEL
        trainee.save(artifact)
        if devices.first() and self.lora is not None and model.template is not None:
            write_atomically(artifact / TEMPLATE, model.template.source)  # which training may have changed
        return Outcome(artifact, weights_hash(trainee.parameters), ledger)

    def _loop(self, trainee: Trainee, method: Method, steps: int, context: Context) -> Ledger:
        check_room(trainee.parameters, self.optimizer, context.folder)
        trained = sum(p.numel() for p in trainee.parameters.values())
        loop = Loop(
            method, trainee.parameters, steps, self, context.folder, Arithmetic(active_weights(trainee.model), trained)
        )
        if loop.done == 0:
            context.progress.say(f"{self.name}: trying the first steps")
            for line in forecast(method, trainee.parameters, self.optimizer, steps, context.prices).lines():
                context.progress.say(line)
        context.progress.begin(self.name, loop.done, steps)
        return loop.run(context.progress)


def active_weights(model: Model) -> int:
    """How many weights a token is multiplied with: of the experts those that are chosen, of the vocabulary the head."""
    config = model.config
    count = config.num_parameters
    if not config.tie_word_embeddings:
        count -= config.vocab_size * config.hidden_size
    if (moe := config.moe) is not None:
        idle = (moe.num_experts - moe.top_k) * 3 * config.hidden_size * moe.intermediate_size
        count -= (config.num_layers - moe.first_dense_layers) * idle
    return count
