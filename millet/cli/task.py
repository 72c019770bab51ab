"""`millet task`: which tasks there are, whether a grader can be trusted, and what a model can learn from."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from millet.cli.ask import QuantizeOption, parse_quantize, parse_think
from millet.cli.eval import parse_tasks
from millet.cli.pull import ensure
from millet.cli.terminal import clean, console

if TYPE_CHECKING:
    from rich.console import Console

    from millet.reasoning.assistant import Assistant, Options
    from millet.reasoning.reply import Reply
    from millet.tasks.band import Band
    from millet.tasks.check import Row
    from millet.tasks.task import Task

REFUSED = 1
_WIDTH = 120  # of tables that go to a file or a program
_BATCH = 64  # replies that the engine computes at once

app = typer.Typer(help="Problems whose answers can be checked.", no_args_is_help=True)

NameArgument = Annotated[str, typer.Argument(help="A task's name, or a Python file with one in it.", metavar="TASK")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


@app.command("list")
def list_tasks(as_json: JsonOption = False) -> None:
    """Show the tasks that have a name, with their levels, and the kinds of files that are tasks."""
    from importlib.metadata import entry_points

    from millet.tasks.find import FILE_KINDS, GROUP, find_task
    from millet.tasks.gym import GymTask, gym_names

    levels = {name: GymTask(name).levels for name in gym_names()}
    levels |= {entry.name: find_task(entry.name).levels for entry in entry_points(group=GROUP)}
    if as_json:
        print(json.dumps({"tasks": levels, "files": list(FILE_KINDS)}, indent=2))
        return
    for name, count in levels.items():
        typer.echo(f"{name:32}{count} level{'s' if count > 1 else ''}")
    typer.echo("\n".join(f"{kind}:FILE" for kind in FILE_KINDS) + "\nFILE.py")


@app.command("check")
def check(
    name: NameArgument,
    problems: Annotated[int, typer.Option(help="How many to try each kind of reply on.", min=1)] = 12,
    seconds: Annotated[float, typer.Option(help="How long grading one reply may take.", min=0.1)] = 10,
    as_json: JsonOption = False,
) -> None:
    """Grade right, wrong, empty, enormous and cheating replies; exit code 1 refuses a grader that a trick beats."""
    from millet.tasks.check import check as run_check
    from millet.tasks.code import CodeTask
    from millet.tasks.find import find_task
    from millet.tasks.grading import Graders
    from millet.tasks.sandbox import missing_guards

    task = find_task(name)
    guards = missing_guards() if isinstance(task, CodeTask) else []
    with Graders(seconds=seconds) as graders, console(stderr=True).status("grading"):
        rows = run_check(task, graders, problems)
    accepted = all(row.accepted for row in rows)
    if as_json:
        found = {"task": task.name, "accepted": accepted, "rows": [asdict(row) for row in rows]}
        print(json.dumps(found | {"not_tried": _not_tried(rows), "missing_guards": guards}, indent=2))
    else:
        _show_check(console(), task, rows)
        for guard in guards:
            console().print(f"\nCode that is graded here: {guard}. Grade only that of models you trust.")
    if not accepted:
        raise typer.Exit(REFUSED)


@app.command("band")
def band(
    model: Annotated[str, typer.Argument(help="A model's name, directory or .gguf file.", metavar="MODEL")],
    tasks: Annotated[str, typer.Option(help="Names, separated by commas.", metavar="NAMES")],
    levels: Annotated[str, typer.Option(help="Numbers, separated by commas, or all.", metavar="LEVELS")] = "all",
    problems: Annotated[int, typer.Option(help="Of each level.", min=1)] = 32,
    samples: Annotated[int, typer.Option(help="Replies to each problem.", min=1)] = 4,
    max_tokens: Annotated[int, typer.Option(help="The most tokens of a reply, the thought included.", min=1)] = 512,
    temperature: Annotated[float, typer.Option(help="Randomness; training samples at 1.")] = 1.0,
    think: Annotated[str, typer.Option(help="on, off, auto, or the most tokens of a thought.", metavar="MODE")] = "on",
    seed: Annotated[int, typer.Option(help="The same seed gives the same problems and replies.")] = 0,
    quantize: QuantizeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure how often a model is right, by task and level, and name the levels that it can learn from."""
    from millet.tasks.band import measure, with_signal
    from millet.tasks.grading import Graders

    asked = _by_task(parse_tasks(tasks, levels))
    mode, packed = parse_think(think), parse_quantize(quantize)
    options: Options = {
        "n": samples,
        "max_tokens": max_tokens,
        "temperature": temperature,
        "think": mode,
        "seed": seed,
    }
    ensure(model)
    notes = console(stderr=True)
    with notes.status(f"Loading {clean(model)}…") as status, Graders() as graders:
        from millet.engine.engine import Engine
        from millet.models.load import load
        from millet.reasoning.assistant import Assistant

        with Engine(load(model, quantize=packed), max_batch=_BATCH) as engine:
            status.update("sampling")
            bands = measure(asked, _reply_to(Assistant(engine), options), graders, problems, seed, _teller(notes))
            failed = sum(graders.faults(task.name) for task, _ in asked)
    chosen = with_signal(bands)
    if as_json:
        found = {"model": model, "bands": [asdict(each) for each in bands], "levels": chosen, "grader_faults": failed}
        print(json.dumps(found, indent=2))
    else:
        _show_bands(console(), bands, chosen, failed)


def _by_task(pairs: Sequence[tuple[Task, int]]) -> list[tuple[Task, list[int]]]:
    tasks = {task.name: task for task, _ in pairs}
    return [(task, [level for other, level in pairs if other is task]) for task in tasks.values()]


def _reply_to(assistant: Assistant, options: Options) -> Callable[[Sequence[str]], list[list[Reply]]]:
    """Several replies to each prompt, with as many under way as the engine takes."""
    from millet.evaluate.harness import replies_to

    def reply_to(prompts: Sequence[str]) -> list[list[Reply]]:
        requests = [assistant.prepare([{"role": "user", "content": prompt}], **options) for prompt in prompts]
        return [replies for _, replies in sorted(replies_to(requests, 2 * _BATCH), key=lambda each: each[0])]

    return reply_to


def _teller(notes: Console) -> Callable[[Band], None]:
    return lambda band: notes.print(f"{clean(band.task)}, level {band.level}: {band.rate:.0%} right")


def _show_check(screen: Console, task: Task, rows: Sequence[Row]) -> None:
    from rich import box
    from rich.table import Table

    if not screen.is_terminal:
        screen.width = max(screen.width, _WIDTH)
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for head in ("reply", "score", "faults", "", "reason"):
        table.add_column(head, justify="right" if head in ("score", "faults") else "left")
    for row in rows:
        score = "-" if row.score is None else f"{row.score:.2f}"
        verdict = "ok" if row.accepted else "REFUSED"
        table.add_row(row.kind, score, str(row.faults or "-"), verdict, clean(row.reason))
    screen.print(table)
    refused = [row.kind for row in rows if not row.accepted]
    if refused:
        screen.print(clean(f"\n{task.name} is not to be trained on: {'; '.join(refused)}"))
    elif untried := _not_tried(rows):
        screen.print(clean(f"\n{task.name}: no trick that was tried earns a reward"))
        screen.print(f"not tried, since no right answer is known: {'; '.join(untried)}")
    else:
        screen.print(clean(f"\n{task.name} can be trained on: no trick that was tried earns a reward"))


def _not_tried(rows: Sequence[Row]) -> list[str]:
    return [row.kind for row in rows if row.score is None]


def _show_bands(screen: Console, bands: Sequence[Band], chosen: dict[str, list[int]], failed: int) -> None:
    from rich import box
    from rich.table import Table

    if not screen.is_terminal:
        screen.width = max(screen.width, _WIDTH)
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for head in ("task", "level", "right", "mixed", ""):
        table.add_column(head, justify="left" if head in ("task", "") else "right")
    for band in bands:
        mark = "train on this" if band.level in chosen.get(band.task, ()) else ""
        table.add_row(clean(band.task), str(band.level), f"{band.rate:.0%}", f"{band.mixed:.0%}", mark)
    screen.print(table)
    if failed:
        screen.print(f"\n{failed} replies could not be graded and count as wrong; see `millet task check`")
    if not chosen:
        screen.print("\nno level has a right reply: give the model worked examples first (sft), or easier levels")
