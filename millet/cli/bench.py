"""`millet bench`: Millet next to its peers on this machine."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from millet.cli.ask import ModelOption
from millet.cli.terminal import clean, console
from millet.errors import BadRequest
from millet.models.catalog import catalog, default_model

if TYPE_CHECKING:
    from millet.bench.engine import Report

app = typer.Typer(help="Measure speed and memory next to other programs.", no_args_is_help=True)


@app.callback()
def bench() -> None:
    """Measure speed and memory next to other programs."""


@app.command("engine")
def engine(
    model: ModelOption = default_model(),
    peers: Annotated[
        str | None, typer.Option(help="Whom to compare with, separated by commas, or none.", metavar="NAMES")
    ] = None,
    rounds: Annotated[int, typer.Option(help="Times to measure; medians are reported.", min=1)] = 3,
    threads: Annotated[int | None, typer.Option(help="Threads each may use.", min=1, show_default="all cores")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Load time, prefill, decode at batch 1, 8 and 32, and peak memory, in turn with peers and in fp32."""
    from millet.bench.engine import bench_engine

    rivals = parse_peers(peers)
    if model in catalog():
        from millet.models.hub import locate, pull

        if locate(model) is None:
            pull(model)
    screen, status = console(), console(stderr=True)
    with status.status("starting") as spinner:
        report = bench_engine(model, rivals, rounds=rounds, threads=threads, say=spinner.update)
    if as_json:
        print(json.dumps(report, indent=2, ensure_ascii=False))
    else:
        show(screen, report)
