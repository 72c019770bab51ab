"""`millet pull` and `millet models`: what can be had, what is here, and a progress bar for what is on its way."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from millet.cli.terminal import can_repaint, clean, console
from millet.models.catalog import CatalogEntry, catalog, default_model
from millet.models.hub import locate, pulled
from millet.models.hub import pull as pull_model

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import TaskID

    from millet.models.progress import Progress

_SECONDS_BETWEEN_LINES = 5.0


def pull(
    name: Annotated[
        str, typer.Argument(help="A name from `millet models`, hf:ORG/NAME, modelscope:ORG/NAME or file:/PATH.")
    ] = default_model(),
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Fetch a model, so that it can be used offline, and print where it is. An interrupted pull is resumed."""
    path = ensure(name)
    print(json.dumps({"name": name, "path": str(path)}, ensure_ascii=False) if as_json else path)


def models(as_json: Annotated[bool, typer.Option("--json", help="Print one JSON array.")] = False) -> None:
    """List the models that have a short name, and what else was pulled."""
    origins = pulled()
    others = [CatalogEntry(name, sources=(source,)) for name, source in origins.items() if name not in catalog()]
    rows = [_describe(entry, origins) for entry in [*catalog().values(), *others]]
    if as_json:
        print(json.dumps(rows, indent=2, ensure_ascii=False))
    else:
        _show(rows)


def ensure(name: str, also: Progress | None = None) -> Path:
    """Where the model is; one that is not here is pulled first, with its progress on standard error.

    also: is told the same, by a server, whose log the screen shows too: then plain lines, and no bar.
    Raises UnknownModel or DownloadFailed.
    """
    present = locate(name)
    if present is not None:
        return present
    screen, start = console(stderr=True), time.monotonic()
    with _bars(screen) if can_repaint(screen) and also is None else _lines(screen) as report:
        path = pull_model(name, _both(report, also) if also else report)
    entry = catalog().get(name)
    size = (_size(path) if entry is None or entry.base is None else _size_of(entry) or 0) / 1e6
    screen.print(
        clean(f"{name} is here now: {size:,.0f} MB in {time.monotonic() - start:.0f} s"), style="dim", soft_wrap=True
    )
    return path


def _both(one: Progress, other: Progress) -> Progress:
    def report(what: str, done: int, total: int | None) -> None:
        one(what, done, total)
        other(what, done, total)

    return report


@contextmanager
def _bars(screen: Console) -> Iterator[Progress]:
    """A bar for what is going on at the moment, gone when it is done."""
    from rich import progress as bars

    columns = (
        bars.TextColumn("{task.description}", markup=False),
        bars.BarColumn(),
        bars.DownloadColumn(),
        bars.TransferSpeedColumn(),
        bars.TimeRemainingColumn(),
    )
    task: TaskID | None = None
    current = ""
    with bars.Progress(*columns, console=screen, transient=True) as display:

        def report(what: str, done: int, total: int | None) -> None:
            nonlocal task, current
            if task is None or what != current:
                if task is not None:
                    display.remove_task(task)
                # Begun where an earlier pull stopped, or the speed shown would count bytes that came then.
                task, current = display.add_task(clean(what), total=total, completed=done), what
            display.update(task, completed=done, total=total)

        yield report


@contextmanager
def _lines(screen: Console) -> Iterator[Progress]:
    """A plain line for each new thing that happens, and one every few seconds while it goes on."""
    current, spoke = "", 0.0

    def report(what: str, done: int, total: int | None) -> None:
        nonlocal current, spoke
        now = time.monotonic()
        if what == current and now - spoke < _SECONDS_BETWEEN_LINES:
            return
        current, spoke = what, now
        amount = f": {done / 1e6:,.0f} of {total / 1e6:,.0f} MB" if total else ""
        screen.print(clean(what + amount), soft_wrap=True)

    yield report


def _describe(entry: CatalogEntry, origins: dict[str, str]) -> dict[str, Any]:
    path = locate(entry.name)
    pulled_as = catalog()[entry.base] if entry.base else entry
    return {
        "name": entry.name,
        "title": entry.title,
        "default": entry.name == default_model(),
        "present": path is not None,
        "path": None if path is None else str(path),
        "size": _size_of(entry),
        "parameters": entry.parameters,
        "context": entry.context,
        "languages": entry.languages,
        "licence": entry.licence,
        "base": entry.base,
        "source": origins.get(pulled_as.name, pulled_as.sources[0]),
        "sources": pulled_as.sources,
        "sampling": entry.sampling,
    }


def _show(rows: list[dict[str, Any]]) -> None:
    """A table whose last column, the source, goes to a line of its own where the terminal is too narrow."""
    screen = console()
    table = [("name", "here", "size", "params", "context", "languages", "licence", "source")]
    for row in rows:
        table.append(
            (
                row["name"] + (" *" if row["default"] else ""),
                "yes" if row["present"] else "",
                _size_text(row),
                f"{row['parameters'] / 1e6:,.0f} M" if row["parameters"] else "",
                str(row["context"] or ""),
                " ".join(row["languages"]),
                row["licence"],
                f"{row['base']} and an adapter" if row["base"] else row["source"],
            )
        )
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    narrow = screen.is_terminal and sum(widths) + 2 * len(widths) > screen.width
    for *facts, source in table:
        cells = (f"{cell:{side}{width}}" for cell, side, width in zip(facts, "<>>>><<", widths, strict=False))
        line = "  ".join(cells) + ("\n    " if narrow else "  ") + source
        screen.print(clean(line), soft_wrap=True)
    screen.print("\n* the default; ~ at 2 bytes a parameter, exact once it is here", style="dim")


def _size_text(row: dict[str, Any]) -> str:
    if row["size"]:
        return f"{row['size'] / 1e6:,.0f} MB"
    return f"~{2 * row['parameters'] / 1e6:,.0f} MB" if row["parameters"] else ""


def _size_of(entry: CatalogEntry) -> int | None:
    """Bytes of a model, here or not, of an adapter with its base; None where nobody knows."""
    if entry.base is not None and entry.adapter is not None:
        base = _size_of(catalog()[entry.base])
        return None if base is None else base + _size(entry.adapter)
    path = locate(entry.name)
    return entry.size if path is None else _size(path)


def _size(path: Path) -> int:
    """Bytes of a file, or of the files in a directory."""
    return sum(p.stat().st_size for p in path.iterdir() if p.is_file()) if path.is_dir() else path.stat().st_size
