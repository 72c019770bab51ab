"""The mean of adapters that were trained from one start, each in its own way; or a part of the way of one.

What a reward says is little beside the noise of a run, and most of a run's way is a random walk; the walks of several
runs cancel, and what they have in common stays (WARP, 2406.16768; model soups, 2203.05482). The factors are averaged
as they are: near their start, the product of the means is the mean of the products.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors.torch import load_file
from torch import Tensor

from millet.errors import BadRequest
from millet.models.adapter import FACTORS, Adapter, Factors
from millet.models.load import load
from millet.models.model import Model
from millet.train.checkpoint import weights_hash, write_atomically
from millet.train.ledger import Stopwatch
from millet.train.stage import MODEL, TEMPLATE, Context, Outcome, Stage


@dataclass(frozen=True, kw_only=True)
class AverageStage(Stage):
    """models: stages, or other adapters, that began from `base`. share: how much of each one's difference from it is
    added to it; the mean is 1 by their number, and more keeps more of what they agree on. Of one model, it is how much
    of its way is kept (WiSE-FT, 2109.01903)."""

    makes_model: ClassVar[bool] = True

    models: tuple[str, ...]
    share: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.models or len(set(self.models)) < len(self.models):
            raise BadRequest(f"models is {list(self.models)}; name at least one, each once")
        if not 0 < self.share <= 1:
            raise BadRequest(f"share is {self.share}; it must be above 0 and at most 1")

    def parents(self, base: str) -> tuple[str, ...]:
        return (base, *self.models)

    def run(self, context: Context) -> Outcome:
        watch = Stopwatch(gpu=False)
        start = load(context.base, device="cpu")
        began, ended = _factors(start, context.base), []
        for name in self.models:
            model = load(context.model(name), device="cpu")
            ended.append(_factors(model, name))
            if _form(model) != _form(start):
                raise BadRequest(
                    f"stage {self.name}: the adapter of {name} has another base, other modules or ranks than that of "
                    f"{context.base}; average what was trained from one start"
                )
        ways = [{key: factors[key] - began[key] for key in began} for factors in ended]
        if len(ways) > 1:
            context.progress.say(f"{self.name}: cosines between the ways (0 for random walks): {self._agreement(ways)}")
        mean = {key: began[key] + self.share * sum(way[key] for way in ways) for key in began}
        artifact = context.folder / MODEL
        _write(mean, start, artifact)
        return Outcome(artifact, weights_hash(load_file(artifact / FACTORS)), watch.lap())

    def _agreement(self, ways: Sequence[Mapping[tuple[str, str], Tensor]]) -> str:
        flat = {
            name: torch.cat([each.flatten() for each in way.values()])
            for name, way in zip(self.models, ways, strict=True)
        }
        return ", ".join(
            f"{a} and {b} {torch.cosine_similarity(flat[a], flat[b], dim=0):.2f}" for a, b in combinations(flat, 2)
        )


def _factors(model: Model, name: str) -> dict[tuple[str, str], Tensor]:
    """A and scale B of each module, in fp32. Raises BadRequest where there is no adapter."""
    if model.adapter is None:
        raise BadRequest(f"{name} is no adapter; average models that were trained with [stage.lora] from one")
    found = {}
    for module, factors in model.adapter.modules.items():
        found[module, "A"] = factors.a_RD.float()
        found[module, "B"] = factors.b_FR.float() * factors.scale
    return found


def _form(model: Model) -> Any:
    """What two adapters must have in common to have a mean."""
    assert model.adapter is not None
    return model.adapter.base, {name: (f.a_RD.shape, f.b_FR.shape) for name, f in model.adapter.modules.items()}


def _write(factors: Mapping[tuple[str, str], Tensor], start: Model, directory: Path) -> None:
    """As an adapter of the start's base, whose scale is in B."""
    assert start.adapter is not None
    modules = {
        module: Factors(factors[module, "A"], factors[module, "B"], scale=1.0) for module in start.adapter.modules
    }
    rank = len(next(iter(modules.values())).a_RD)
    Adapter(start.adapter.base, modules).write(directory, rank, alpha=float(rank))
    if start.template is not None:
        write_atomically(directory / TEMPLATE, start.template.source)
