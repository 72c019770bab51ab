"""`millet bench`: Millet next to its peers on this machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from millet.cli.ask import ModelOption
from millet.cli.pull import ensure
from millet.cli.terminal import clean, console
from millet.errors import BadRequest
from millet.models.catalog import catalog, default_model

MODEL = catalog()[default_model()].base or default_model()  # peers read no adapters
_WIDTH = 200  # of lines that go to a file or a program, which nobody folds

app = typer.Typer(help="Measure speed and memory next to other programs.", no_args_is_help=True)


@app.callback()
def bench() -> None:
    """Measure speed and memory next to other programs."""


@app.command("engine")
def engine(
    model: ModelOption = MODEL,
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
    model: ModelOption = MODEL,
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


@app.command("serve")
def serve(
    model: ModelOption = MODEL,
    rounds: Annotated[int, typer.Option(help="Times to measure; medians are reported.", min=1, max=100)] = 5,
    clients: Annotated[
        str, typer.Option(help="Numbers of clients at once, separated by commas, or none.", metavar="NUMBERS")
    ] = "1,8,32",
    streams: Annotated[int, typer.Option(help="Idle streams to hold open; 0 leaves that out.", min=0, max=4000)] = 1000,
    threads: Annotated[int | None, typer.Option(help="Threads of the engine.", min=1, show_default="all cores")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """What the server costs over the engine in process, and what it does beside many idle streams. On loopback."""
    from millet.bench.serve import bench_serve

    counts = parse_clients(clients)
    if counts:
        ensure(model)
    screen, status = console(), console(stderr=True)
    with status.status("starting") as spinner:
        report = bench_serve(model, rounds=rounds, clients=counts, streams=streams, threads=threads, say=spinner.update)
    if as_json:
        print(json.dumps(report, indent=2, ensure_ascii=False))
    else:
        show_serve(screen, report)


@app.command("sft")
def sft(
    model: ModelOption = MODEL,
    data: Annotated[
        Path | None,
        typer.Option(
            help="Conversations to train on, one JSON object a line.", metavar="FILE", show_default="everyday ones"
        ),
    ] = None,
    peers: Annotated[str, typer.Option(help="Whom to compare with, or none.", metavar="NAMES")] = "trl",
    rounds: Annotated[int, typer.Option(help="Steps to measure; medians are reported.", min=1)] = 3,
    tokens: Annotated[int, typer.Option(help="Tokens of a step.", min=1)] = 2048,
    threads: Annotated[int | None, typer.Option(help="Threads each may use.", min=1, show_default="all cores")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Tokens/s of supervised fine-tuning, all weights and an adapter, in turn with peers."""
    from millet.bench.sft import CHATS, bench_sft

    ensure(model)
    screen, status = console(), console(stderr=True)
    rivals = [name.strip() for name in peers.split(",")] if peers != "none" else []
    with status.status("starting") as spinner:
        report = bench_sft(
            model, data or CHATS, peers=rivals, rounds=rounds, threads=threads, length=tokens, say=spinner.update
        )
    if as_json:
        print(json.dumps(report, indent=2))
        return
    table = _table(
        screen.is_terminal, "Training", *(f"{name} tok/s" for name in ("millet", *rivals)), "ratio", "of the roof"
    )
    for kind in ("full", "lora"):
        found = report[kind]
        speeds = [f"{found[name]['tokens_per_second']:.0f}" for name in ("millet", *rivals)]
        ratios = ", ".join(f"{ratio:.2f}" for ratio in found["ratios"].values())
        table.add_row(kind, *speeds, ratios, f"{found['of_the_roof']:.0%}")
    screen.print(table)


@app.command("grpo")
def grpo(
    model: ModelOption = MODEL,
    peers: Annotated[str, typer.Option(help="Whom to compare with, or none.", metavar="NAMES")] = "trl",
    sampler: Annotated[Literal["fp32", "q8"], typer.Option(help="What Millet samples with, all weights.")] = "fp32",
    rounds: Annotated[int, typer.Option(help="Steps to measure; medians are reported.", min=1)] = 3,
    threads: Annotated[int | None, typer.Option(help="Threads each may use.", min=1, show_default="all cores")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Seconds of a step of reinforcement learning, all weights and an adapter, in turn with peers."""
    from millet.bench.grpo import bench_grpo

    ensure(model)
    screen, status = console(), console(stderr=True)
    rivals = [name.strip() for name in peers.split(",")] if peers != "none" else []
    with status.status("starting") as spinner:
        report = bench_grpo(model, peers=rivals, rounds=rounds, threads=threads, sampler=sampler, say=spinner.update)
    if as_json:
        print(json.dumps(report, indent=2))
        return
    parts = report["full"]["millet"]["parts"]
    table = _table(screen.is_terminal, "Seconds a step", "all", *parts, "ratio", "peak memory", "of the roof")
    for kind in ("full", "lora"):
        found = report[kind]
        for name in ("millet", *rivals):
            seconds = (found[name]["seconds"], *found[name]["parts"].values())
            ratio = "" if name == "millet" else f"{found['ratios'][name]:.2f}"
            share = f"{found['of_the_roof']:.0%}" if name == "millet" else ""
            memory = f"{found[name]['peak_bytes'] / 1e9:.2f} GB"
            table.add_row(f"{kind}, {name}", *(f"{value:.2f}" for value in seconds), ratio, memory, share)
    screen.print(table)


def parse_clients(text: str) -> list[int]:
    """Numbers of clients. Raises BadRequest for what is none, or too many."""
    numbers = [part.strip() for part in text.split(",") if part.strip() not in ("", "none")]
    for number in numbers:
        if not number.isdecimal() or not 1 <= int(number) <= 256:
            raise BadRequest(f"--clients is {text!r}; give numbers from 1 to 256, such as 1,8,32, or none")
    return list(dict.fromkeys(map(int, numbers)))


def show_serve(screen: Console, report: dict[str, Any]) -> None:
    """The report as tables, plain where they are not for a terminal."""
    if not screen.is_terminal:
        screen.width = max(screen.width, _WIDTH)
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    screen.print(clean(f"{report['model']} on {report['cpu']['name']}, {report['threads']} threads; {versions}"))
    screen.print(f"Medians of {report['rounds']}.")
    for table in (_served, _idle):
        if (filled := table(report, screen.is_terminal)).row_count:
            screen.print()
            screen.print(filled)
    if idle := report["idle_streams"]:
        screen.print(
            f"An idle stream takes {idle['bytes_per_stream'] / 1000:.1f} kB of the server; all together keep "
            f"{idle['cores_busy_with_streams']:.0%} of a core busy. They opened at {idle['opened_per_second']:.0f}/s."
        )


def _served(report: dict[str, Any], lines: bool) -> Table:
    """Served next to in process, by clients; processor seconds of a round, of the clients too."""
    headings = ("tok/s", "in process", "ratio", "lost", "first token (p99)", "in process", "CPU s", "in process")
    table = _table(lines, "Clients", *headings, "clients' CPU s", "same text")
    for count, found in report["clients"].items():
        served, in_process = found["served"], found["in_process"]
        firsts = [
            f"{side['first_token_seconds']['median'] * 1000:.0f} ms ({side['first_token_seconds']['p99'] * 1000:.0f})"
            for side in (served, in_process)
        ]
        table.add_row(
            count,
            f"{served['tokens_per_second']:.1f}",
            f"{in_process['tokens_per_second']:.1f}",
            f"{found['ratio']:.3f}x",
            f"{found['lost']:.1%}",
            *firsts,
            f"{served['cpu_seconds']:.2f}",
            f"{in_process['cpu_seconds']:.2f}",
            f"{served['client_cpu_seconds']:.2f}",
            f"{found['same_text']:.0%}",
        )
    return table


def _idle(report: dict[str, Any], lines: bool) -> Table:
    """Small requests without and with idle streams."""
    table = _table(lines, "Idle streams", "requests/s", "p50", "p99")
    if idle := report["idle_streams"]:
        for streams, found in ((0, idle["without_streams"]), (idle["streams"], idle["with_streams"])):
            latencies = [f"{found[key] * 1000:.1f} ms" for key in ("p50_seconds", "p99_seconds")]
            table.add_row(str(streams), f"{found['requests_per_second']:.0f}", *latencies)
    return table


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
