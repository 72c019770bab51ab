"""`millet bench`: Millet next to its peers on this machine."""

from __future__ import annotations

import json
from importlib.util import find_spec
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from millet.cli.ask import DEFAULT_MODEL, ModelOption
from millet.cli.pull import ensure
from millet.cli.terminal import clean, console
from millet.errors import BadRequest

_WIDTH = 200  # of lines that go to a file or a program, which nobody folds

app = typer.Typer(help="Measure speed and memory next to other programs.", no_args_is_help=True)


@app.callback()
def bench() -> None:
    """Measure speed and memory next to other programs."""


@app.command("engine")
def engine(
    model: ModelOption = DEFAULT_MODEL,
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
    ensure(model)
    screen, status = console(), console(stderr=True)
    with status.status("starting") as spinner:
        report = bench_engine(model, rivals, rounds=rounds, threads=threads, say=spinner.update)
    if as_json:
        print(json.dumps(report, indent=2, ensure_ascii=False))
    else:
        show(screen, report)


def parse_peers(text: str | None) -> list[str]:
    """Names of known peers. By default those that are installed. Raises BadRequest for one that is not."""
    from millet.bench.peers import PEERS

    installed = [name for name in PEERS if find_spec(name)]
    if text is None:
        return installed
    names = [name.strip() for name in text.split(",") if name.strip() not in ("", "none")]
    for name in names:
        if name not in PEERS:
            raise BadRequest(f"no peer is called {name!r}; there are {', '.join(PEERS)}, or none")
        if name not in installed:
            raise BadRequest(f"{name} is not installed; install it with pip, or leave it out with --peers none")
    return names


def show(screen: Console, report: dict[str, Any]) -> None:
    """The report as tables, plain where they are not for a terminal."""
    if not screen.is_terminal:
        screen.width = max(screen.width, _WIDTH)
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    roof = report["roof"]
    screen.print(clean(f"{report['model']} in fp32 on {report['cpu']['name']}, {roof['threads']} threads; {versions}"))
    screen.print(
        f"Roof: reads {roof['read']:.1f} GB/s, computes {roof['fp32']:.0f} GFLOP/s. Medians of {report['rounds']}."
    )
    screen.print()
    screen.print(_speeds(report, screen.is_terminal))
    screen.print()
    screen.print(_memory(report, screen.is_terminal))
    for peer, share in report["same_tokens"].items():
        screen.print(f"{peer} and Millet wrote the very same tokens after {share:.0%} of the prompts.")


def _speeds(report: dict[str, Any], lines: bool) -> Table:
    peers = list(report["load"]["ratio"])
    table = _table(lines, "Phase", "Millet", *peers, *(f"of {peer}" for peer in peers), "of the roof", "predicted")
    seconds, ratio = report["load"]["seconds"], report["load"]["ratio"]
    load = [f"{seconds[name]:.2f} s" for name in ("millet", *peers)]
    table.add_row("load", *load, *(f"{ratio[peer]:.2f}x" for peer in peers), "", "")
    for name, phase in report["phases"].items():
        speeds = [f"{phase['tokens_per_second'][who]:.1f} tok/s" for who in ("millet", *peers)]
        ratios = [f"{phase['ratio'][peer]:.2f}x" for peer in peers]
        share, predicted = f"{phase['roof_share']['millet']:.0%}", f"{phase['predicted']:.1f} tok/s"
        table.add_row(name, *speeds, *ratios, share, predicted)
    return table


def _memory(report: dict[str, Any], lines: bool) -> Table:
    table = _table(lines, "Peak memory", "after load", "one reply", "all", "of the weights", "above PyTorch")
    for name, memory in report["memory"].items():
        peaks = memory["peak_bytes_by_phase"]
        shown = [f"{size / 1e6:.0f} MB" for size in (peaks["load"], peaks["decode_1"], memory["peak_bytes"])]
        ratios = [f"{memory[key]:.2f}x" for key in ("peak_to_weights", "above_torch_to_weights")]
        table.add_row(name, *shown, *ratios)
    return table


def _table(lines: bool, first: str, *others: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD if lines else None, padding=(0, 1) if lines else (0, 2, 0, 0))
    table.add_column(first)
    for heading in others:
        table.add_column(heading, justify="right")
    return table
