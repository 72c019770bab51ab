"""Recipes: a TOML file that says which stages turn which model into which.

    seed = 0

    [model]
    base = "smollm2-135m"

    [[stage]]
    kind = "sft"
    data = ["traces.jsonl"]

    [stage.optimizer]
    learning_rate = 2e-4

Every table is a dataclass, so a key that no dataclass has is an error that names the nearest one.
"""

from __future__ import annotations

import difflib
import json
import tomllib
import types
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from millet.errors import BadRequest
from millet.train.ledger import Prices
from millet.train.stage import Stage

# Where the dataclass of each kind of stage is.
KINDS = {
    "sft": ("millet.train.sft", "SftStage"),
    "grpo": ("millet.train.grpo", "GrpoStage"),
    "reject": ("millet.train.reject", "RejectStage"),
    "answers": ("millet.train.answers", "AnswersStage"),
    "magpie": ("millet.train.magpie", "MagpieStage"),
    "distill": ("millet.train.distill", "DistillStage"),
    "distill-logits": ("millet.train.distill_logits", "DistillLogitsStage"),
    "distill-on-policy": ("millet.train.distill_on_policy", "DistillOnPolicyStage"),
    "worked": ("millet.train.worked", "WorkedStage"),
    "average": ("millet.train.average", "AverageStage"),
}

Table = TypeVar("Table")


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """base: a name from `millet models`, a directory, a .gguf file, or hf:ORG/NAME. device: "cpu", "cuda"; by default a
    GPU where there is one."""

    base: str
    device: str | None = None


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """path: the file; data is looked for beside it. stages have names that differ."""

    path: Path
    model: ModelSettings
    stages: tuple[Stage, ...]
    seed: int = 0
    prices: Prices = field(default_factory=Prices)


def read_recipe(path: str | Path) -> Recipe:
    """Raises BadRequest that says what in the file is wrong."""
    path = Path(path)
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise BadRequest(f"there is no recipe {path}; check the path") from error
    except OSError as error:
        raise BadRequest(f"{path} cannot be read ({error.strerror}); check the path") from error
    except ValueError as error:  # TOML's errors, and those of bytes that are no UTF-8
        raise BadRequest(f"{path} is not TOML: {error}") from error
    try:
        return _recipe(path, content)
    except BadRequest as error:
        raise BadRequest(f"{path}: {error}") from error


def configuration(stage: Stage, before: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """A stage as plain data, with its kind, as lineage and reports show it. before: the same of an earlier version of
    Millet, which may not have had all keys; those that are as by default are left out then, as they change nothing."""
    plain: dict[str, Any] = json.loads(json.dumps(asdict(stage)))
    if before is not None:
        defaults = {each.name: each.default for each in fields(stage)}
        plain = {key: value for key, value in plain.items() if key in before or getattr(stage, key) != defaults[key]}
    return {"kind": kind_of(stage), **plain}


def kind_of(stage: Stage) -> str:
    return next(kind for kind, home in KINDS.items() if home == (type(stage).__module__, type(stage).__name__))


def build(cls: type[Table], table: Any, where: str) -> Table:
    """A dataclass from a table of TOML. where: what the table is called in errors, such as "[model]"."""
    if not isinstance(table, Mapping):
        raise BadRequest(f"{where} is {table!r}; it must be a table")
    hints = get_type_hints(cls)
    known = {f.name: f for f in fields(cls)}  # type: ignore[arg-type]
    for key in table:
        if key not in known:
            raise BadRequest(f"{where} has the unknown key {key!r}; {_nearest(key, known)}")
    for name, one in known.items():
        if name not in table and one.default is MISSING and one.default_factory is MISSING:
            raise BadRequest(f"{where} lacks {name!r}; add it")
    return cls(**{key: _value(hints[key], value, f"{where} {key}") for key, value in table.items()})


def _recipe(path: Path, content: dict[str, Any]) -> Recipe:
    stages = content.pop("stage", None)
    if not isinstance(stages, list) or not stages:
        raise BadRequest('there is no stage; add [[stage]] with kind = "sft"')
    known = [f.name for f in fields(Recipe) if f.name not in ("path", "stages")]
    for key in content:
        if key not in known:
            raise BadRequest(f"unknown key {key!r}; {_nearest(key, [*known, 'stage'])}")
    if "model" not in content:
        raise BadRequest('there is no [model]; add one with base = "smollm2-135m"')
    given = {key: _value(get_type_hints(Recipe)[key], value, f"[{key}]") for key, value in content.items()}
    return Recipe(path=path, stages=_stages(stages), **given)


def _stages(tables: list[Any]) -> tuple[Stage, ...]:
    found: dict[str, Stage] = {}
    for number, table in enumerate(tables, 1):
        kind = table.get("kind") if isinstance(table, dict) else None
        if kind not in KINDS:
            raise BadRequest(f"stage {number} has the kind {kind!r}; {_nearest(str(kind), KINDS)}")
        module, name = KINDS[kind]
        rest = {key: value for key, value in table.items() if key != "kind"}
        if "name" not in rest:
            rest["name"] = kind if kind not in found else f"{kind}-{number}"
        stage: Stage = build(getattr(import_module(module), name), rest, f"stage {number} ({kind})")
        if stage.name in found:
            raise BadRequest(f"two stages are called {stage.name!r}; rename one")
        found[stage.name] = stage
    return tuple(found.values())


def _value(hint: Any, value: Any, where: str) -> Any:
    """A value of TOML for a field of this type: a number, text, Literal, X | None, tuple[X, ...] or a dataclass."""
    kind = get_origin(hint)
    if kind in (Union, types.UnionType):
        return _value(next(option for option in get_args(hint) if option is not types.NoneType), value, where)
    if kind is Literal:
        if value not in get_args(hint):
            raise BadRequest(f"{where} is {value!r}; {_nearest(str(value), [str(o) for o in get_args(hint)])}")
        return value
    if kind is tuple:
        if not isinstance(value, list):
            raise BadRequest(f"{where} is {value!r}; it must be a list")
        return tuple(_value(get_args(hint)[0], item, where) for item in value)
    if is_dataclass(hint):
        return build(hint, value, where)  # type: ignore[arg-type]
    if hint is float and type(value) is int:
        return float(value)
    if type(value) is not hint:
        names = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}
        raise BadRequest(f"{where} is {value!r}; it must be {names[hint]}")
    return value


def _nearest(key: str, known: Any) -> str:
    near = difflib.get_close_matches(key, list(known), n=1)
    return f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
