"""`millet doctor`: what this machine has, what it can reach, and how each model would run on it."""

from __future__ import annotations

import json
import platform
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from millet import __version__
from millet.cli.terminal import clean, console
from millet.errors import BadWeights, MilletError
from millet.models.catalog import catalog
from millet.models.hub import home, locate

if TYPE_CHECKING:
    from millet.engine.planner import Cost, Precision
    from millet.kernels.cpu import CPU, Memory
    from millet.kernels.roof import Roof

_WIDTH = 200  # of lines that go to a file or a program, which nobody folds


def doctor(
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="Only this one: a name, a directory or a .gguf file.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Examine this machine: processor, memory, measured speed, and which models fit and how fast they will be."""
    if model is not None:
        locate(model)  # a name that nothing has is refused before anything is measured
    screen = console()
    if screen.is_terminal and not as_json:
        with screen.status("measuring this machine"):
            findings = examine(model)
    else:
        findings = examine(model)
    if as_json:
        print(json.dumps(findings, indent=2, ensure_ascii=False))
    else:
        show(screen, findings)


def examine(model: str | None = None) -> dict[str, Any]:
    """Everything that `doctor` reports, ready for JSON. Bytes, GB/s, GFLOP/s, tokens/s."""
    import torch

    from millet.kernels.cpu import Memory, read_cpu, read_memory
    from millet.kernels.native.build import compiler
    from millet.kernels.roof import measure_roof
    from millet.tasks.sandbox import missing_guards

    cpu, memory, kernels = read_cpu(), read_memory(), native_kernels()
    roof = measure_roof("cpu", cpu)
    gpu: dict[str, Any] | None = None
    place = (roof, memory)
    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        place = (measure_roof("cuda"), Memory(total, free))
        gpu = {"name": torch.cuda.get_device_name(), "memory": asdict(place[1]), "roof": asdict(place[0])}
    return {
        "millet": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torch_kernels": torch.backends.cpu.get_cpu_capability(),
        "processor": asdict(cpu),
        "memory": asdict(memory),
        "roof": asdict(roof),
        "gpu": gpu,
        "kernels": kernels,
        "compiler": " ".join(compiler() or []) or None,
        "home": str(home()),
        "disk_free": shutil.disk_usage(_existing(home())).free,
        "notes": notes(
            cpu, gpu is not None, kernels["why_not"], torch.backends.mkldnn.is_available(), missing_guards()
        ),
        "models": [prospects(name, cpu, *place) for name in ([model] if model else catalog())],
    }


def native_kernels() -> dict[str, str | None]:
    """The native kernels' variant and file, or why there are none."""
    from millet.kernels.native.library import library, variant, why_not

    opened = library()
    return {"variant": variant(), "why_not": why_not(), "library": opened._name if opened else None}


def notes(cpu: CPU, gpu: bool, why_not: str | None, onednn: bool, guards: Sequence[str]) -> list[str]:
    """What is missing here or present but unused, and what it would change. why_not: no native kernels are used.
    guards: what the sandbox for code lacks."""
    found = []
    if not gpu and shutil.which("nvidia-smi"):
        found.append("GPU: there is an NVIDIA GPU, but this PyTorch cannot use it; install PyTorch built for CUDA.")
    elif not gpu:
        found.append("GPU: none. An NVIDIA GPU would run models in bf16 at the speed of its own memory.")
    if why_not is not None:
        found.append(f"Native kernels: {why_not}. Without them PyTorch computes everything, more slowly.")
    if not onednn:
        found.append(
            "oneDNN: this PyTorch is built without it; with it, products of small batches are 2-3 times faster."
        )
    if not cpu.native_bf16:
        found.append("bf16: not in this processor's instructions, so models always run in fp32 here.")
    found += [f"Code in training and evaluation: {guard}. Grade only that of models you trust." for guard in guards]
    return found


def prospects(model: str, cpu: CPU, roof: Roof, memory: Memory) -> dict[str, Any]:
    """How one model would run. `exact` is False while it is not on this machine and only its size is known."""
    from millet.engine.planner import Cost, plan

    entry = catalog().get(model)
    path = locate(model)
    try:
        sizes = _sizes(path) if path else None
    except MilletError as error:
        return {"name": model, "here": True, "error": str(error)}
    if sizes is None:
        if entry is None or entry.parameters is None:
            return {"name": model, "here": False, "error": "its size is not known before it is pulled"}
        sizes = Cost(parameters=entry.parameters), entry.context or 0, None
    cost, context, kept = sizes
    it = asdict(plan(cost, context, roof, cpu, memory, kept))
    return {"name": model, "here": path is not None, "exact": path is not None, "parameters": cost.parameters} | it


def _sizes(path: Path) -> tuple[Cost, int, Precision | None] | None:
    """Sizes, context length and (where the file decides) precision of a model on disk; its weights stay there.

    An adapter costs what its base does, and its factors beside quantised weights; None where the base is not here.
    """
    from millet.engine.planner import Cost, Precision
    from millet.models.adapter import CONFIG, Adapter
    from millet.models.config import ModelConfig
    from millet.models.gguf import GGUFFile, GGUFWeights
    from millet.models.gguf_config import config_from_gguf
    from millet.models.packing import choose_formats, packed_bytes
    from millet.models.weights import unfilled

    beside = 0  # bytes
    if path.is_dir() and (path / CONFIG).exists() and not (path / "config.json").exists():
        adapter = Adapter.read(path)
        beside = sum(2 * (f.a_RD.numel() + f.b_FR.numel()) for f in adapter.modules.values())  # kept in fp16
        base = locate(adapter.base)
        if base is None:
            return None
        path = base
    if path.is_dir() and not (path / "config.json").exists():
        path = next(iter(sorted(path.glob("*.gguf"))), path / "config.json")
    gguf = None if path.is_dir() else GGUFFile(path)
    try:
        hf = config_from_gguf(gguf) if gguf else json.loads((path / "config.json").read_bytes())
    except (OSError, ValueError) as error:
        raise BadWeights(f"{path} cannot be read ({error}); check the path") from error
    config = ModelConfig.from_hf(hf)
    kept = None
    if gguf is not None:
        network = unfilled(config)
        formats = choose_formats(network, GGUFWeights(gguf), None)
        shapes = {name: tuple(p.shape) for name, p in network.named_parameters()}
        if formats:
            read = packed_bytes(shapes, formats, 4) + beside
            kept = Precision(read / config.num_parameters, 2, native=True, integers=True)
    return Cost.of(config), config.max_position_embeddings, kept


def _existing(path: Path) -> Path:
    """The nearest folder above `path` that is there already."""
    return next(folder for folder in (path, *path.parents) if folder.exists())


def show(screen: Console, findings: dict[str, Any]) -> None:
    """The findings as two tables and a few lines; without lines and colours where they are not for a terminal."""
    if not screen.is_terminal:
        screen.width = max(screen.width, _WIDTH)
    screen.print(_machine(findings))
    screen.print()
    screen.print(_models(findings["models"], screen.is_terminal))
    if not all(row.get("exact", True) for row in findings["models"]):
        screen.print(
            "~ estimated from the size alone: not on this machine yet, `millet pull NAME` gets it", style="dim"
        )
    screen.print()
    for note in findings["notes"]:
        screen.print(note)


def _machine(findings: dict[str, Any]) -> Table:
    processor, memory, roof, gpu = (findings[key] for key in ("processor", "memory", "roof", "gpu"))
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="bold")
    table.add_column()
    table.add_row("Millet", f"{findings['millet']}, Python {findings['python']}, PyTorch {findings['torch']}")
    table.add_row("Processor", clean(f"{processor['name']} ({processor['architecture']})"))
    table.add_row("Features", " ".join(processor["features"]) or "none known")
    native = findings["kernels"]["variant"]
    pytorch = f"PyTorch's for {findings['torch_kernels']}"
    table.add_row("Kernels", f"native for {native}; {pytorch}" if native else f"{pytorch}; no native ones")
    table.add_row("Cores", f"{processor['cores']} usable, {roof['threads']} threads for PyTorch")
    table.add_row("Memory", f"{_gb(memory['available'])} free of {_gb(memory['total'])}")
    table.add_row("Reading", f"{roof['read']:.1f} GB/s, measured")
    table.add_row("Arithmetic", _arithmetic(roof))
    if gpu:
        table.add_row(
            "GPU", clean(f"{gpu['name']}, {_gb(gpu['memory']['available'])} free of {_gb(gpu['memory']['total'])}")
        )
        table.add_row("", f"{gpu['roof']['read']:.0f} GB/s, {_arithmetic(gpu['roof'])}")
    table.add_row("Models in", clean(f"{findings['home']}, {_gb(findings['disk_free'])} free"))
    return table


def _arithmetic(roof: dict[str, Any]) -> str:
    bf16 = f", bf16 {roof['bf16']:.0f}" if roof["bf16"] else ""
    int8 = f", int8 {roof['int8']:.0f} GOP/s" if roof["int8"] else ""
    return f"fp32 {roof['fp32']:.0f}{bf16} GFLOP/s{int8}, measured"


def _models(rows: list[dict[str, Any]], lines: bool) -> Table:
    table = Table(box=box.SIMPLE_HEAD if lines else None, padding=(0, 1) if lines else (0, 2, 0, 0))
    table.add_column("Model")
    for heading in ("Weights", "Needs", "Fits", "Prefill tok/s", "Decode 1", "8", "32 at once", "Cache tok"):
        table.add_column(heading, justify="right")
    table.add_column("How")
    for row in rows:
        if "error" in row:
            table.add_row(clean(row["name"]), *[""] * 8, clean(row["error"]))
            continue
        about = "" if row["exact"] else "~"
        speeds = [f"{about}{speed:.3g}" for speed in (row["prefill"], *row["decode"].values())]
        table.add_row(
            clean(row["name"]),
            _gb(row["weights"]),
            about + _gb(row["needed"]),
            "yes" if row["fits"] else "no",
            *(speeds if row["fits"] else [""] * len(speeds)),
            f"{row['cache_tokens']:,}" if row["cache_tokens"] is not None and row["fits"] else "",
            row["path"],
        )
    return table


def _gb(size: int) -> str:
    return f"{size / 1e9:.1f} GB"
