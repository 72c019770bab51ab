"""`millet eval`: how good a model is at tasks, with intervals, and whether it is better than another."""

from __future__ import annotations

import json
import os
import shlex
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from millet.cli.ask import INTERRUPTED, QuantizeOption, ThinkOption, parse_quantize, parse_think
from millet.cli.pull import ensure
from millet.cli.terminal import can_repaint, clean, console
from millet.errors import BadRequest

if TYPE_CHECKING:
    from rich.console import Console

    from millet.evaluate.harness import Question, Standing
    from millet.evaluate.metrics import Summary
    from millet.evaluate.report import Report
    from millet.evaluate.results import Evaluation, Settings
    from millet.evaluate.talk import Talk
    from millet.models.model import Model
    from millet.tasks.task import Task

_SECONDS_BETWEEN_LINES = 15.0
_WIDE = 110  # columns of a terminal from which on all figures are shown
_WIDTH = 200  # of lines that go to a file or a program, which nobody folds


def evaluate(
    model: Annotated[
        str, typer.Argument(help="A name from `millet models`, a directory, a .gguf file, or hf:ORG/NAME.")
    ],
    tasks: Annotated[str | None, typer.Option(help="Names of tasks, separated by commas.", metavar="NAMES")] = None,
    talk: Annotated[
        Path | None,
        typer.Option(help="Everyday questions, asked instead; --compare names the base.", metavar="FILE.jsonl"),
    ] = None,
    levels: Annotated[
        str, typer.Option(help="Levels of difficulty, separated by commas; all for every one.", metavar="NUMBERS")
    ] = "0",
    problems: Annotated[int, typer.Option(help="Problems of each task and level.", min=1)] = 200,
    k: Annotated[int, typer.Option("--k", help="Replies to each problem.", min=1)] = 1,
    temperature: Annotated[float, typer.Option(help="Randomness; 0 always takes the likeliest.")] = 0.6,
    max_tokens: Annotated[int, typer.Option(help="The most tokens of a reply, the thought included.", min=1)] = 1024,
    think: ThinkOption = "on",
    seed: Annotated[int, typer.Option(help="Of the sampling; the problems are always the same.")] = 0,
    quantize: QuantizeOption = None,
    batch: Annotated[int, typer.Option(help="Replies to compute at once; more suit a GPU.", min=1)] = 64,
    compare: Annotated[
        str | None,
        typer.Option(
            help="A model to compare with, on the same problems; or what --transcripts wrote of one.", metavar="MODEL"
        ),
    ] = None,
    report: Annotated[Path | None, typer.Option(help="Write a page for people here.", metavar="FILE.html")] = None,
    transcripts: Annotated[
        Path | None, typer.Option(help="Write every reply here, as lines of JSON.", metavar="FILE.jsonl")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Measure a model on held-out problems: pass@1, pass@k, majority vote, length of thought, with 95% intervals.

    Ctrl-C ends it with what there is.
    """
    from millet.cli.talk import measure_talk
    from millet.evaluate.harness import questions
    from millet.evaluate.results import Settings, write_transcripts

    settings = Settings(problems, k, temperature, max_tokens, parse_think(think), seed, parse_quantize(quantize))
    for path in (report, transcripts):
        _check_writable(path)
    if talk is not None:
        if tasks is not None or compare is None or report is not None or k > 1 or levels != "0":
            raise BadRequest("--talk needs --compare BASE, and goes without --tasks, --levels, --k and --report")
        found = measure_talk(model, compare, talk, settings, batch)
        return _tell_talk(found, settings, transcripts, as_json)
    if tasks is None:
        raise BadRequest(
            "there is nothing to ask; add --tasks with names from `millet task list`, or --talk FILE.jsonl"
        )
    asked = questions(parse_tasks(tasks, levels), settings)
    earlier = _earlier(compare, settings, asked)
    names = [model] if compare is None else [model, compare]
    for name in names[:1] if earlier else names:
        ensure(name)
    told = command(model, tasks, levels, settings, compare)
    result = _run(names, asked, settings, batch, told, earlier)
    if as_json:
        print(json.dumps(result.to_dict(), indent=2, ensure_ascii=False))
    else:
        show(console(), result)
    if transcripts is not None:
        _write(transcripts, lambda path: write_transcripts(result.evaluations, path))
    if report is not None:
        _write(report, lambda path: path.write_text(result.to_html(), encoding="utf-8"))
    if result.partial:
        raise typer.Exit(INTERRUPTED)
    return None


def _tell_talk(talk: Talk, settings: Settings, transcripts: Path | None, as_json: bool) -> None:
    from millet.cli.talk import show_talk, talk_as_json, write_replies

    if as_json:
        print(talk_as_json(talk, settings))
    else:
        show_talk(console(), talk)
    if transcripts is not None:
        _write(transcripts, lambda path: write_replies(talk, path))


def _earlier(compare: str | None, settings: Settings, asked: Sequence[Question]) -> Evaluation | None:
    """The evaluation that --compare names a file of. Raises BadRequest for one that was asked otherwise, or other
    problems."""
    from millet.evaluate.results import read_transcripts

    if compare is None or not compare.endswith(".jsonl"):
        return None
    found = read_transcripts(Path(compare))
    if found.partial:
        raise BadRequest(
            f"{compare} was interrupted after {len(found.attempts)} of {found.asked} problems; make it anew"
        )
    then, now = asdict(found.settings), asdict(settings)
    options = {name: f"--{name.replace('_', '-')}" for name in then if then[name] != now[name]}
    if options:
        told = [f"no {text}" if then[name] is None else f"{text} {then[name]}" for name, text in options.items()]
        raise BadRequest(
            f"{compare} was asked otherwise ({', '.join(told)}); ask the same way, or compare with the model itself"
        )
    groups = dict.fromkeys(question.group for question in asked)
    if groups.keys() != found.groups().keys():
        others = "; ".join(map(str, found.groups()))
        raise BadRequest(f"{compare} has other tasks ({others}); give the same --tasks and --levels")
    prompts = {(question.group, question.index): question.problem.prompt for question in asked}
    if prompts != {(attempt.group, attempt.index): attempt.prompt for attempt in found.attempts}:
        raise BadRequest(f"{compare} has other problems, as the tasks have changed since; make it anew")
    return found


def parse_tasks(names: str, levels: str) -> list[tuple[Task, int]]:
    """Each task with each of its levels that is asked for. Raises BadRequest; UnknownTask for a name that is none."""
    from millet.tasks.find import find_task

    found = [find_task(name.strip()) for name in names.split(",") if name.strip()]
    tasks = list({task.name: task for task in found}.values())
    if not tasks:
        raise BadRequest("--tasks names no task; see them with: millet task list")
    wanted = [level.strip() for level in levels.split(",") if level.strip()]
    if wanted == ["all"]:
        return [(task, level) for task in tasks for level in range(task.levels)]
    if not wanted or not all(level.isascii() and level.isdigit() for level in wanted):
        raise BadRequest(f"--levels is {levels!r}; give numbers from 0, separated by commas, or all")
    numbers = list(dict.fromkeys(map(int, wanted)))
    for task in tasks:
        if max(numbers) >= task.levels:
            raise BadRequest(f"{task.name} has the levels 0 to {task.levels - 1}, and not {max(numbers)}")
    return [(task, level) for task in tasks for level in numbers]


def command(model: str, tasks: str, levels: str, settings: Settings, compare: str | None) -> str:
    """What to type for the same figures, whatever the defaults may be one day."""
    words = ["millet", "eval", model, "--tasks", tasks, "--levels", levels]
    for name in ("problems", "k", "temperature", "max_tokens", "think", "seed"):
        words += [f"--{name.replace('_', '-')}", str(getattr(settings, name))]
    words += ["--quantize", settings.quantize] if settings.quantize else []
    words += ["--compare", compare] if compare else []
    return shlex.join(words)


def show(screen: Console, report: Report) -> None:
    """Tables of figures with their intervals, and what one must know about them."""
    from millet.evaluate.report import warnings

    if not screen.is_terminal:
        screen.width = max(screen.width, _WIDTH)
    k = report.evaluations[0].settings.k
    for evaluation, summary in zip(report.evaluations, report.summaries, strict=True):
        if summary.groups:
            _show_table(screen, evaluation.model, summary, k)
    if report.difference:
        first, second = (evaluation.model for evaluation in report.evaluations)
        _show_table(screen, f"{second} less {first}, shares in points", report.difference, k, signed=True)
    for evaluation in report.evaluations:
        for warning in warnings(evaluation):
            screen.print(clean(warning), style="yellow", soft_wrap=True)


def _show_table(screen: Console, name: str, summary: Summary, k: int, signed: bool = False) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from millet.evaluate.wording import columns, range_of, title, value_of

    figures, wide = columns(k), screen.width >= _WIDE
    if not wide:
        figures = [figure for figure in figures if figure not in ("thought_cut", "tokens_per_second")]
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, title=clean(name), title_justify="left")
    table.add_column("task", overflow="fold")
    for figure in figures:
        table.add_column(title(figure).replace(" ", "\n"), justify="right")
    rows = {str(group): estimates for group, estimates in summary.groups.items()}
    if len(rows) > 1:
        rows["mean"] = summary.mean
    for head, estimates in rows.items():
        cells = [
            Text(value_of(figure, estimates[figure], signed)).append(
                f"\n{range_of(figure, estimates[figure], signed, digits=1 if wide else 0)}", style="dim"
            )
            for figure in figures
        ]
        table.add_row(Text(clean(head), style="bold" if head == "mean" else ""), *cells)
    screen.print(table)


def _run(
    names: Sequence[str],
    asked: Sequence[Question],
    settings: Settings,
    batch: int,
    told: str,
    earlier: Evaluation | None,
) -> Report:
    """Each model in turn; Ctrl-C ends the first that it meets, and leaves out the next. earlier: what there is of the
    second already."""
    from millet.engine.engine import Engine
    from millet.evaluate.harness import evaluate
    from millet.evaluate.provenance import lineage_of, origin
    from millet.evaluate.report import Report
    from millet.evaluate.wording import told_apart
    from millet.models.load import load
    from millet.reasoning.assistant import Assistant
    from millet.tasks.grading import Graders

    found: list[Evaluation] = []
    models: list[Model] = []
    screen = console(stderr=True)
    with Graders() as graders:
        for name in names[:1] if earlier else names:
            with screen.status(f"Loading {clean(name)}…"):
                models.append(load(name, quantize=settings.quantize))
            with Engine(models[-1], max_batch=batch) as engine, _progress(screen, name, len(asked)) as watch:
                found.append(evaluate(Assistant(engine), asked, settings, graders.grade, watch, batch))
            found[-1].lineage = lineage_of(models[-1])
            if found[-1].partial:
                break
    if earlier is not None:
        found.append(earlier)
    for evaluation, called in zip(found, told_apart([each.model for each in found], names), strict=False):
        evaluation.model = called
    return Report.of(origin(told, *models), *reversed(found))


@contextmanager
def _progress(screen: Console, name: str, asked: int) -> Iterator[Callable[[Standing], None]]:
    """A bar on a terminal, gone when it is done; else a plain line now and then."""
    if not can_repaint(screen):
        spoke = time.monotonic()

        def say(standing: Standing) -> None:
            nonlocal spoke
            if time.monotonic() - spoke >= _SECONDS_BETWEEN_LINES:
                spoke = time.monotonic()
                screen.print(clean(f"{name}: {standing.done} of {asked}, {_in_words(standing)}"), soft_wrap=True)

        yield say
        return
    from rich import progress as bars

    columns = (
        bars.TextColumn("{task.description}", markup=False),
        bars.BarColumn(),
        bars.MofNCompleteColumn(),
        bars.TextColumn("{task.fields[words]}", markup=False),
        bars.TimeRemainingColumn(),
    )
    with bars.Progress(*columns, console=screen, transient=True) as display:
        bar = display.add_task(clean(name), total=asked, words="")
        yield lambda standing: display.update(bar, completed=standing.done, words=_in_words(standing))


def _in_words(standing: Standing) -> str:
    solved = f"{standing.solved / standing.graded:.0%} solved, " if standing.graded else ""
    return f"{solved}{standing.tokens / standing.seconds:,.0f} tok/s"


def _check_writable(path: Path | None) -> None:
    """Before hours of work that would have nowhere to go. Raises BadRequest."""
    if path is None:
        return
    folder = path.absolute().parent
    if path.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        raise BadRequest(f"{path} cannot be written; name a file in a folder that exists and is yours")


def _write(path: Path, write: Callable[[Path], object]) -> None:
    """All of it or nothing."""
    part = path.with_name(path.name + ".part")
    try:
        write(part)
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise BadRequest(f"{path} cannot be written: {error.strerror}; the figures are above") from error
