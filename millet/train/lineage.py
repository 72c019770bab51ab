"""Where an artifact comes from: hashes of everything that made it, and what it cost."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch

import millet
from millet.errors import MilletError
from millet.evaluate.provenance import task_versions
from millet.train import devices
from millet.train.checkpoint import file_hash, write_atomically

LINEAGE = "lineage.json"
RESTORED = "restored"  # in the lineage of a stage that shipped (scripts/restore.py): what it was made of is not here


def origin(
    configuration: Mapping[str, Any], seed: int, data: Mapping[str, Path], parents: Mapping[str, Path]
) -> dict[str, Any]:
    """All that decides what a stage will make. data, parents: name in the recipe -> file or model directory."""
    return {
        "configuration": dict(configuration),
        "configuration_sha256": text_hash(json.dumps(configuration, sort_keys=True)),
        "seed": seed,
        "data": {name: file_hash(path) for name, path in data.items()},
        "parents": {name: tree_hash(path) for name, path in parents.items()},
        "code": {"version": millet.__version__, "sha256": code_hash()},
        "environment": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "processes": devices.count(),
            "threads": torch.get_num_threads(),
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
            "packages": task_versions(),
        },
    }


def check_same(before: Mapping[str, Any], now: Mapping[str, Any], folder: Path) -> str | None:
    """Whether a run that began as `before` may go on as `now`; a line to tell where only the program has changed.

    Raises MilletError that names what differs.
    """
    told = {"configuration_sha256": "configuration"}  # what has shipped tells no places, so there hashes alone agree
    for key, name in (
        ("configuration_sha256", "recipe"),
        ("seed", "seed"),
        ("data", "data"),
        ("parents", "base model"),
    ):
        if before[key] != now[key]:
            part = told.get(key, key)
            what = _difference(before[part], now[part])
            raise MilletError(
                f"{folder} has a run whose {name} was another one{what}; choose a new --out, or restore what it was"
            )
    if before["code"] != now["code"] or before["environment"] != now["environment"]:
        what = ""
        if before["environment"] != now["environment"]:
            what = _difference(before["environment"], now["environment"])
        return f"the program or the machine has changed since this run began{what}, so its bits may differ from now on"
    return None


def tree_hash(path: Path) -> str:
    """SHA-256 of a file, or of names and contents in a directory: without lineage.json, which tells times."""
    if path.is_file():
        return file_hash(path)
    names = sorted(p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_file() and p.name != LINEAGE)
    return text_hash("\n".join(f"{name} {file_hash(path / name)}" for name in names))


@cache
def code_hash() -> str:
    """SHA-256 of this package's sources."""
    root = Path(millet.__file__).parent
    names = sorted(p.relative_to(root).as_posix() for suffix in ("py", "cpp", "h") for p in root.rglob(f"*.{suffix}"))
    return text_hash("\n".join(f"{name} {file_hash(root / name)}" for name in names))


def text_hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def write_lineage(folder: Path, content: Mapping[str, Any]) -> None:
    write_atomically(folder / LINEAGE, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def read_lineage(folder: Path) -> dict[str, Any] | None:
    """None where there is none yet."""
    path = folder / LINEAGE
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def _difference(before: Any, now: Any, path: str = "") -> str:
    """The first place where two JSON values differ, for a person: " (optimizer.learning_rate was 0.1 and is 0.2)"."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in [*before, *(key for key in now if key not in before)]:
            if before.get(key) != now.get(key):
                return _difference(before.get(key), now.get(key), f"{path}.{key}" if path else key)
    return f" ({path + ' ' if path else ''}was {_short(before)} and is {_short(now)})"


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:59] + "…"
