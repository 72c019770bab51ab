"""Where figures come from: the command, the machine, the versions, the date, and what made a model."""

from __future__ import annotations

import json
import platform
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, entry_points, version
from typing import Any

import torch

from millet import __version__
from millet.kernels.cpu import read_cpu
from millet.models.model import Model
from millet.tasks.find import GROUP

LINEAGE = "lineage.json"
TASK_PACKAGES = ("reasoning-gym", "math-verify", "latex2sympy2-extended", "sympy")  # the last two read formulas


@dataclass(frozen=True, slots=True)
class Origin:
    command: str
    date: str
    machine: str
    versions: dict[str, str]


def origin(command: str, *models: Model) -> Origin:
    """Of figures that are being made now, here. The machine's name is nobody's concern, and not told."""
    return Origin(
        command=command,
        date=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        machine=_machine(models),
        versions={
            "millet": __version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
            **task_versions(),
        },
    )


def task_versions() -> dict[str, str]:
    """Of the packages here that decide problems and grades, those with tasks of their own included: under the same
    name another version may have other problems."""
    found = {entry.dist.name: entry.dist.version for entry in entry_points(group=GROUP) if entry.dist is not None}
    for name in TASK_PACKAGES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return dict(sorted(found.items()))


def _machine(models: tuple[Model, ...]) -> str:
    cpu = read_cpu()
    names = [f"{cpu.name}, {cpu.cores} cores"]
    if any(model.device.type == "cuda" for model in models):
        names.insert(0, torch.cuda.get_device_name())
    return "; ".join(names)


def lineage_of(model: Model) -> Any:
    """What its training wrote about it. None where there is nothing, or nothing that can be read: a model from
    elsewhere may have such a file too."""
    folder = model.path if model.path.is_dir() else model.path.parent
    try:
        return json.loads((folder / LINEAGE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
