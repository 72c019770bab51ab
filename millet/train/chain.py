"""A recipe from its first stage to its last, each in a folder of its own, with its lineage.

OUT/lock                     held while a run is going on
OUT/recipe.toml              what was run
OUT/1-sft/origin.json        what the stage was begun with
OUT/1-sft/checkpoints/       while it goes on
OUT/1-sft/metrics.jsonl      one line a step; samples.jsonl: things to read
OUT/1-sft/model/             what it has made, with lineage.json
OUT/1-sft/lineage.json       the same; there when the stage is done
OUT/1-sft/report.html
OUT/lineage.json             of all stages together
"""

from __future__ import annotations

import fcntl
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from millet.errors import BadRequest, MilletError
from millet.models.catalog import catalog
from millet.models.hub import locate, pull
from millet.tasks.find import find_task, task_file
from millet.train import devices
from millet.train.checkpoint import CHECKPOINTS, file_hash, write_atomically
from millet.train.ledger import Ledger
from millet.train.lineage import RESTORED, check_same, origin, read_lineage, write_lineage
from millet.train.progress import Progress
from millet.train.recipe import Recipe, configuration
from millet.train.report import write_report
from millet.train.stage import FROM_STAGE, MODEL, Context, Outcome, Stage


def train(recipe: Recipe, out: str | Path, progress: Progress) -> dict[str, Any]:
    """Run a recipe in the folder `out`, going on with what is there; the lineage of the whole chain.

    Raises MilletError for what cannot work, for a folder that another run is using or that has a run of another recipe,
    and for a full disk; Stopped when a signal came; whatever a stage raises. What was done till then is kept.
    """
    _check(recipe)
    try:
        return _train(recipe, Path(out), progress)
    except FileNotFoundError as error:
        raise MilletError(
            f"{error.filename or out} is not there any more; restore it, or choose a new --out"
        ) from error
    except OSError as error:
        place = error.filename or out
        raise MilletError(
            f"cannot write to {place} ({error.strerror or error}); make room and run the same command to go on"
        ) from error


def _train(recipe: Recipe, out: Path, progress: Progress) -> dict[str, Any]:
    devices.from_first(lambda: _check_outside(recipe, out))  # what is refused leaves no folder behind
    with _only_one(out) if devices.first() else nullcontext():
        devices.wait()  # no other process writes before the folder is there and this run's
        base = recipe.model.base  # of the next stage: a model, or the name of the stage that made it
        to_run = devices.from_first(lambda: _to_run(recipe, out))
        done, lineages = dict[str, Path](), dict[str, Any]()
        for number, stage in enumerate(recipe.stages, 1):
            folder = _folder(out, number, stage)
            folder.mkdir(exist_ok=True)
            start = stage.base or base
            context = Context(
                folder=folder,
                base=str(done[start] / MODEL) if start in done else start,
                seed=recipe.seed,
                device=recipe.model.device,
                prices=recipe.prices,
                progress=progress,
                beside=recipe.path.parent,
                stages=dict(done),
            )
            lineages[stage.name] = _run(recipe, stage, start, stage.name in to_run, context)
            done[stage.name] = folder
            if lineages[stage.name]["artifact"] == MODEL:
                base = stage.name
        devices.from_first(lambda: _keep(recipe, out))
        whole = {"recipe_sha256": file_hash(recipe.path), "stages": lineages, "ledger": _total(recipe, lineages)}
        devices.from_first(lambda: write_lineage(out, whole))
        return whole


def _check(recipe: Recipe) -> None:
    """What can be seen to fail before the first stage has cost anything."""
    names: list[str] = []
    models = [stage.name for stage in recipe.stages if stage.makes_model]
    for stage in recipe.stages:
        for source in stage.sources():
            if source.startswith(FROM_STAGE):
                if source.removeprefix(FROM_STAGE) not in names:
                    raise BadRequest(f"stage {stage.name} reads {source!r}, which names no earlier stage")
                if source.removeprefix(FROM_STAGE) in models:
                    raise BadRequest(f"stage {stage.name} reads {source!r}, which makes a model and no data")
            elif not (recipe.path.parent / Path(source).expanduser()).is_file():
                raise BadRequest(
                    f"stage {stage.name} reads {source}, which is not beside {recipe.path}; check the path"
                )
        for parent in (stage.base, *stage.parents(stage.base or recipe.model.base)):
            if parent in names and parent not in models:
                raise BadRequest(f"stage {stage.name} needs the model of {parent}, which makes data and no model")
        names.append(stage.name)


def _check_outside(recipe: Recipe, out: Path) -> None:
    """What stages that are still to run will need, models, tasks and servers: a day of training must not end with a
    typo."""
    names: list[str] = []
    to_run = _to_run(recipe, out)
    for stage in recipe.stages:
        if stage.name in to_run:
            for name in stage.parents(stage.base or recipe.model.base):
                if name not in names:
                    locate(name)  # raises where there is neither a stage nor a model of that name
            for task in getattr(stage, "tasks", ()):
                found, levels = find_task(task, recipe.path.parent), getattr(stage, "levels", ())
                if levels and not any(0 <= level < found.levels for level in levels):
                    raise BadRequest(
                        f"stage {stage.name}: {task} has the levels 0 to {found.levels - 1}, and none of {list(levels)}"
                    )
            stage.check()
        names.append(stage.name)


def _to_run(recipe: Recipe, out: Path) -> set[str]:
    """Stages that are not done; and of those that were restored, which are without their data, the ones that such a
    stage reads."""
    found: set[str] = set()
    read: set[str] = set()
    for number, stage in reversed([*enumerate(recipe.stages, 1)]):
        lineage = read_lineage(_folder(out, number, stage))
        missing = lineage is not None and RESTORED in lineage and FROM_STAGE + stage.name in read
        if lineage is None or missing:
            found.add(stage.name)
            read.update(stage.sources())
    return found


def _folder(out: Path, number: int, stage: Stage) -> Path:
    return out / f"{number}-{stage.name}"


@contextmanager
def _only_one(out: Path) -> Iterator[None]:
    """The folder is this run's. The lock is the system's and goes with the process, however that ends."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        file = open(out / "lock", "w")  # noqa: SIM115 - closed below, which frees the lock
    except OSError as error:
        raise MilletError(f"cannot write to {out} ({error.strerror}); choose another --out") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise MilletError(f"another run is using {out}; wait for it, stop it, or choose another --out") from error
        yield


def _run(recipe: Recipe, stage: Stage, start: str, to_run: bool, context: Context) -> dict[str, Any]:
    now, finished = devices.from_first(lambda: _begin(stage, start, to_run, context))
    if finished is not None:
        return finished
    devices.from_first(lambda: _keep(recipe, context.folder.parent))
    try:
        outcome = stage.run(context) if stage.together else devices.from_first(lambda: stage.run(context))
        lineage = devices.from_first(lambda: _finish(now, outcome, context))
    except BaseException:
        with suppress(OSError):  # a full disk, say, which the error tells already
            _report(now, recipe, context)
        raise
    _report(now, recipe, context)
    return lineage


def _keep(recipe: Recipe, out: Path) -> None:
    """Not before it has been found to be the recipe of what is there."""
    write_atomically(out / "recipe.toml", recipe.path.read_text(encoding="utf-8"))


def _begin(stage: Stage, start: str, to_run: bool, context: Context) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """What decides the stage, and its lineage where it has been run already."""
    folder = context.folder
    lineage = read_lineage(folder)
    finished = None if to_run else lineage
    restored = lineage is not None and RESTORED in lineage
    before = lineage or _begun(folder)
    data, parents = dict[str, Path](), dict[str, Path]()
    if to_run or not restored:
        parents = {name: _parent(name, stage, context) for name in stage.parents(start)}
        data = {name: context.path(name) for name in stage.sources()}
        tasks = {name: task_file(name, context.beside) for name in getattr(stage, "tasks", ())}
        data |= {name: path for name, path in tasks.items() if path is not None}
    settings = configuration(stage, before and before["configuration"])
    now = {"stage": stage.name, **origin(settings, context.seed, data, parents)}
    if before is not None and restored:
        before = before | {"data": now["data"], "parents": now["parents"]}  # what shipped tells no places
    changed = before and check_same(before, now, folder)
    if finished is not None:
        context.progress.say(f"{stage.name} is done already, in {folder}")
    elif changed:
        context.progress.say(changed)
    if before is None:
        write_atomically(folder / "origin.json", json.dumps(now, indent=2, ensure_ascii=False) + "\n")
    return now, finished


def _finish(now: Mapping[str, Any], outcome: Outcome, context: Context) -> dict[str, Any]:
    ledger = outcome.ledger.entries(context.prices)
    lineage = {**now, "artifact": outcome.artifact.name, "sha256": outcome.sha256, "ledger": ledger}
    if outcome.artifact.is_dir():
        write_lineage(outcome.artifact, lineage)
    write_lineage(context.folder, lineage)
    shutil.rmtree(context.folder / CHECKPOINTS, ignore_errors=True)
    return lineage


def _report(now: Mapping[str, Any], recipe: Recipe, context: Context) -> None:
    if devices.first():
        write_report(context.folder, now, recipe)


def _begun(folder: Path) -> dict[str, Any] | None:
    path = folder / "origin.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def _parent(name: str, stage: Stage, context: Context) -> Path:
    """Where the model is that a recipe calls so. Raises MilletError where the stage that made it has been restored."""
    place = context.model(name)
    if name in context.stages and not Path(place).exists():
        raise MilletError(
            f"stage {stage.name} starts from {name}, whose model is not in {context.folder.parent}; run the recipe in "
            "another --out from its first stage on, or name a later base"
        )
    return _place(place)


def _place(base: str) -> Path:
    path = Path(base).expanduser()
    return path if path.exists() and base not in catalog() else locate(base) or pull(base)


def _total(recipe: Recipe, lineages: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    total = Ledger()
    for lineage in lineages.values():
        total.add(Ledger.of(lineage["ledger"]))
    money = sum(lineage["ledger"]["money"] for lineage in lineages.values())
    return {**asdict(total), "money": money, "currency": recipe.prices.currency}
