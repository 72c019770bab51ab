"""`millet bench`: Millet next to its peers on this machine."""

from __future__ import annotations

import json
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
    shape: Annotated[
        str | None, typer.Option(help="Random weights of this shape instead of a model.", metavar="NAME")
    ] = None,
    rounds: Annotated[int, typer.Option(help="Times to measure; medians are reported.", min=1)] = 3,
    threads: Annotated[int | None, typer.Option(help="Threads each may use.", min=1, show_default="all cores")] = None,
    profile: Annotated[bool, typer.Option("--profile", help="Show where Millet's time goes, by operation.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Load time, prefill, decode at batch 1, 8 and 32, peak memory and fidelity, in turn with peers."""
    from millet.bench.engine import bench_engine, bench_shape

    rivals = parse_peers(peers)
    if shape is None:
        ensure(model)
    screen, status = console(), console(stderr=True)
    with status.status("starting") as spinner:
        if shape is None:
            report = bench_engine(model, rivals, rounds=rounds, threads=threads, profiled=profile, say=spinner.update)
        else:
            report = bench_shape(shape, rivals, rounds=rounds, threads=threads, profiled=profile, say=spinner.update)
    if as_json:
        print(json.dumps(report, indent=2, ensure_ascii=False))
    else:
        show(screen, report)


@app.command("latent")
def latent(
    rounds: Annotated[int, typer.Option(help="Times to measure; medians are reported.", min=1)] = 5,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """How decoding slows down with the context: a small DeepSeek with its latent cache, and with expanded keys."""
    from millet.bench.latent import bench_latent

    screen, status = console(), console(stderr=True)
    with status.status("starting") as spinner:
        report = bench_latent(rounds=rounds, say=spinner.update)
    if as_json:
        print(json.dumps(report, indent=2))
        return
    times = report["milliseconds_per_token"]
    table = _table(screen.is_terminal, "ms a token at a context of", *map(str, times["latent"]), "each 1,000 more")
    for name, by_context in times.items():
        growth = f"{report['growth_per_1k'][name]:.3f}"
        table.add_row(name, *(f"{milliseconds:.2f}" for milliseconds in by_context.values()), growth)
    screen.print(table)


@app.command("speculation")
def speculation(
    model: ModelOption = DEFAULT_MODEL,
    rounds: Annotated[int, typer.Option(help="Times to measure; medians are reported.", min=1)] = 3,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """What guessing ahead brings where a reply repeats its prompt, and costs where it does not."""
    from millet.bench.speculation import bench_speculation

    ensure(model)
    screen, status = console(), console(stderr=True)
    with status.status("starting") as spinner:
        report = bench_speculation(model, rounds=rounds, say=spinner.update)
    if as_json:
        print(json.dumps(report, indent=2))
        return
    table = _table(screen.is_terminal, "Text", "without", "with guesses", "ratio", "guesses accepted")
    for kind in ("repeating", "free"):
        found = report[kind]
        speeds = (f"{found['tokens_per_second'][how]:.0f} tok/s" for how in ("off", "ngram"))
        table.add_row(kind, *speeds, f"{found['ratio']:.2f}x", f"{found['accepted']:.0%}")
    screen.print(table)


def parse_peers(text: str | None) -> list[str] | None:
    """Names of known peers; None, for whichever are installed, if none were named. Raises BadRequest for one that is
    not known or not installed."""
    from millet.bench.peers import PEERS

    if text is None:
        return None
    names = [name.strip() for name in text.split(",") if name.strip() not in ("", "none")]
    for name in names:
        if name not in PEERS:
            raise BadRequest(f"no peer is called {name!r}; there are {', '.join(PEERS)}, or none")
        if not PEERS[name].installed:
            package = PEERS[name].package
            raise BadRequest(f"{package} is not installed; install it with pip, or leave {name} out of --peers")
    return list(dict.fromkeys(names))


def show(screen: Console, report: dict[str, Any]) -> None:
    """The report as tables, plain where they are not for a terminal."""
    if not screen.is_terminal:
        screen.width = max(screen.width, _WIDTH)
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    roof = report["roof"]
    screen.print(clean(f"{report['model']} on {report['cpu']['name']}, {roof['threads']} threads; {versions}"))
    integers = f", {roof['int8']:.0f} GOP/s in int8" if roof["int8"] else ""
    screen.print(
        f"Roof: reads {roof['read']:.1f} GB/s, computes {roof['fp32']:.0f} GFLOP/s in fp32{integers}. "
        f"Medians of {report['rounds']}."
    )
    for name, build in report["builds"].items():
        screen.print(clean(f"{name} was built with {build}"))
    for table in (_speeds, _shares, _memory, _fidelity, _operations):
        if (filled := table(report, screen.is_terminal)).row_count:
            screen.print()
            screen.print(filled)
    for peer, share in report["same_tokens"].items():
        rival = report["rivals"][peer]
        screen.print(f"{peer} and {rival} wrote the very same tokens after {share:.0%} of the prompts.")


def _speeds(report: dict[str, Any], lines: bool) -> Table:
    """One row for each contender, then Millet's ratios to the best contender of each peer."""
    load, phases = report["load"], report["phases"]
    table = _table(lines, "Tokens/s", "load", *phases)
    for name, seconds in load["seconds"].items():
        table.add_row(name, f"{seconds:.2f} s", *(f"{p['tokens_per_second'][name]:.1f}" for p in phases.values()))
    for peer, rival in report["rivals"].items():
        ratios = [part["ratio"][peer] for part in (load, *phases.values())]
        table.add_row(f"{rival} to {peer}", *(f"{ratio:.2f}x" for ratio in ratios))
    return table


def _shares(report: dict[str, Any], lines: bool) -> Table:
    """Speeds next to what the machine could do, and next to what the planner predicted."""
    phases = report["phases"]
    table = _table(lines, "Of the roof", *phases)
    for name in report["load"]["seconds"]:
        table.add_row(name, *(f"{phase['roof_share'][name]:.0%}" for phase in phases.values()))
    for name in next(iter(phases.values()))["predicted"]:
        table.add_row(f"predicted for {name}", *(f"{phase['predicted'][name]:.1f} tok/s" for phase in phases.values()))
    return table


def _memory(report: dict[str, Any], lines: bool) -> Table:
    table = _table(
        lines, "Peak memory", "after load", "one reply", "all", "weights read", "of the weights", "above runtime"
    )
    for name, memory in report["memory"].items():
        peaks = memory["peak_bytes_by_phase"]
        sizes = (peaks["load"], peaks["decode_1"], memory["peak_bytes"], report["weight_bytes"][name])
        ratios = [f"{memory[key]:.2f}x" for key in ("peak_to_weights", "above_bare_to_weights")]
        table.add_row(name, *(f"{size / 1e6:.0f} MB" for size in sizes), *ratios)
    return table


def _fidelity(report: dict[str, Any], lines: bool) -> Table:
    """How far from the same weights in fp32."""
    table = _table(lines, "Fidelity", "mean KL", "same best token")
    for name, found in report["fidelity"].items():
        table.add_row(name, f"{found['mean_kl']:.2g}", f"{found['top1_agreement']:.1%}")
    return table


def _operations(report: dict[str, Any], lines: bool) -> Table:
    """Where Millet's time goes: share of each operation, by phase."""
    by_phase = {name: found for name, found in report["operations"].items() if found}
    table = _table(lines, "Time by operation", *by_phase)
    totals = {name: sum(found.values()) for name, found in by_phase.items()}
    for operation in dict.fromkeys(operation for found in by_phase.values() for operation in found):
        shares = (found.get(operation, 0.0) / totals[name] for name, found in by_phase.items())
        table.add_row(operation, *(f"{share:.1%}" for share in shares))
    return table


def _table(lines: bool, first: str, *others: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD if lines else None, padding=(0, 1) if lines else (0, 2, 0, 0))
    table.add_column(first)
    for heading in others:
        table.add_column(heading, justify="right")
    return table
