"""`millet train`: a recipe, its pre-flight, and how far it has come."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from millet.cli.pull import ensure
from millet.cli.terminal import can_repaint, clean, console

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

    from millet.train.progress import Progress

LINES = 20  # of a whole stage, where there is no terminal to repaint

# What is shown of a step, where a method tells it: name in the metrics -> how.
SHOWN = {"kept": "{:,.0f} kept", "loss": "loss {:.3f}", "reward": "reward {:.3f}", "tokens_per_second": "{:,.0f} tok/s"}


def train(
    recipe: Annotated[Path, typer.Argument(help="A TOML file; docs/teach.md says what may be in it.")],
    out: Annotated[
        Path | None, typer.Option(help="The run's folder.", show_default="runs/ and the recipe's name", metavar="DIR")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the lineage as one JSON object.")] = False,
) -> None:
    """Train a model as a recipe says. A run that was interrupted goes on where it was."""
    from millet.kernels.waiting import wait_briefly

    wait_briefly()

    from millet.train import devices
    from millet.train.chain import train as run
    from millet.train.recipe import read_recipe
    from millet.train.signals import Stopped

    with devices.joined():
        parsed = read_recipe(recipe)
        folder = out if out is not None else Path("runs") / recipe.stem
        if not Path(parsed.model.base).expanduser().exists():
            devices.from_first(lambda: ensure(parsed.model.base))
        screen = console(stderr=True)
        with _display(screen) as progress:
            try:
                lineage = run(parsed, folder, progress)
            except Stopped as stopped:
                progress.say(str(stopped))
                raise KeyboardInterrupt from stopped
        if not devices.first():
            return
    if as_json:
        print(json.dumps(lineage, indent=2, ensure_ascii=False))
        return
    cost = lineage["ledger"]
    hours = cost["wall_seconds"] / 3600
    screen.print(clean(f"Done in {hours:.2f} h for {cost['money']:.2g} {cost['currency']}: {folder}"), soft_wrap=True)


class _Lines:
    """A line now and then, for a log."""

    def __init__(self, screen: Console) -> None:
        self._screen = screen
        self._every = 1
        self._steps = 0

    def say(self, line: str) -> None:
        self._screen.print(clean(line), soft_wrap=True)

    def begin(self, stage: str, done: int, steps: int) -> None:
        self._steps, self._every = steps, max(1, steps // LINES)
        self.say(f"{stage}: {f'goes on after step {done} of' if done else ''} {steps:,} steps".replace(":  ", ": "))

    def step(self, done: int, record: Mapping[str, Any]) -> None:
        if done % self._every == 0 or done == self._steps:
            shown = _shown(record)
            self.say(f"step {done} of {self._steps}" + (f": {shown}" if shown else ""))


class _Bar:
    """One line that is painted again after each step."""

    def __init__(self, bars: Bars) -> None:
        self._bars = bars
        self._task: TaskID | None = None

    def say(self, line: str) -> None:
        self._bars.console.print(clean(line), soft_wrap=True)

    def begin(self, stage: str, done: int, steps: int) -> None:
        if self._task is not None:
            self._bars.remove_task(self._task)
        self._task = self._bars.add_task(clean(stage), total=steps, completed=done, shown="")

    def step(self, done: int, record: Mapping[str, Any]) -> None:
        assert self._task is not None, "a stage begins before its steps"
        self._bars.update(self._task, completed=done, shown=_shown(record))


@contextmanager
def _display(screen: Console) -> Iterator[Progress]:
    from millet.train import devices
    from millet.train.progress import Silent

    if not devices.first():
        yield Silent()
        return
    if not can_repaint(screen):
        yield _Lines(screen)
        return
    from rich import progress

    columns = (
        progress.TextColumn("{task.description}", markup=False),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TextColumn("{task.fields[shown]}", markup=False),
        progress.TimeRemainingColumn(),
    )
    with progress.Progress(*columns, console=screen) as bars:
        yield _Bar(bars)


def _shown(record: Mapping[str, Any]) -> str:
    return ", ".join(how.format(record[name]) for name, how in SHOWN.items() if record.get(name) is not None)
