"""`millet bench engine`: load time, prefill, decode at several batch sizes and peak memory, next to peers.

Contenders take turns phase by phase, so that whatever slows the machine down for a while slows all of them. Figures are
medians over rounds. Prompts are random and new every time: no prefix cache helps, and all contenders get the same ones.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from millet.bench.course import PROMPT, Phase, large_phases, phases
from millet.bench.fidelity import Caller, measure_fidelity
from millet.bench.llamacpp import KINDS, kind_of, quantised, weight_bytes
from millet.bench.peers import installed
from millet.bench.report import Tally, report
from millet.bench.shapes import shape_file
from millet.bench.worker import Worker
from millet.errors import BadRequest
from millet.kernels.roof import Roof, measure_roof
from millet.models.config import ModelConfig
from millet.models.hub import locate

REFERENCE = "millet:fp32"
"""What fidelity is measured against: the plain network in fp32."""


Say = Callable[[str], None]


def bench_engine(
    model: str,
    peers: Sequence[str] | None = None,
    *,
    rounds: int = 3,
    threads: int | None = None,
    profiled: bool = False,
    say: Say = lambda text: None,
) -> dict[str, Any]:
    """Run Millet and `peers` on one model, a name or a path that `millet.load` takes; it must be on this machine.

    peers: names in `PEERS`; None for all that are installed and can run the model. The report is ready for JSON. `say`
    is told what is going on. profiled: say where Millet's time goes, too. Raises MilletError when a contender fails.
    """
    files = entrants(model, peers, say)
    return {"model": model} | _measured(files, model, phases(), rounds, threads, profiled, say)


def bench_shape(
    shape: str,
    peers: Sequence[str] | None = None,
    *,
    rounds: int = 3,
    threads: int | None = None,
    profiled: bool = False,
    say: Say = lambda text: None,
) -> dict[str, Any]:
    """As `bench_engine`, on random weights in the shape of a larger model (shapes.py), with fewer phases.

    In fp32 it would need several times the memory, and what it says is noise; so there is neither fp32 nor fidelity,
    and the only peer is llama.cpp, which runs the very same file.
    """
    if others := set(peers or ()) - {"llama.cpp"}:
        raise BadRequest(f"a shape is compared with llama.cpp only; leave out {', '.join(sorted(others))}")
    say(f"writing {shape}")
    path = shape_file(shape)
    files: dict[str, Path | None] = {"millet": path}
    if "llama.cpp" in (installed() if peers is None else peers):
        files[f"llama.cpp:{kind_of(path)}"] = path
    return {"model": shape} | _measured(files, str(path), large_phases(), rounds, threads, profiled, say)


def entrants(model: str, peers: Sequence[str] | None, say: Say = lambda text: None) -> dict[str, Path | None]:
    """The contenders by name, and the file that each runs; None where that is what Millet finds for `model`."""
    gguf = _gguf(model)
    if peers is None:
        peers = [peer for peer in installed() if gguf or peer != "llama.cpp"]
    files: dict[str, Path | None] = {"millet": None, REFERENCE: None}
    if "transformers" in peers:
        files["transformers"] = None
    if "llama.cpp" in peers:
        if gguf is None:
            raise BadRequest(f"{model} is no GGUF file, and llama.cpp runs only those; leave it out of --peers")
        for kind in dict.fromkeys((kind_of(gguf), *KINDS)):
            say(f"making {kind}")
            files[f"llama.cpp:{kind}"] = quantised(gguf, kind)
    return files


def _gguf(model: str) -> Path | None:
    """The GGUF file that a name or a path means, if it means one."""
    path = locate(model)
    if path is not None and path.is_dir() and not (path / "config.json").exists():
        path = next(iter(sorted(path.glob("*.gguf"))), None)
    return path if path and path.suffix == ".gguf" else None


def _measured(
    files: Mapping[str, Path | None],
    model: str,
    course: Sequence[Phase],
    rounds: int,
    threads: int | None,
    profiled: bool,
    say: Say,
) -> dict[str, Any]:
    threads = threads or torch.get_num_threads()
    torch.set_num_threads(threads)
    say("measuring the roof")
    path = files["millet"] or locate(model)
    size = path.stat().st_size if path and path.is_file() else None  # about as much as one token reads
    before = measure_roof(read_bytes=size)
    with ExitStack() as stack:
        workers: dict[str, Caller] = {name: stack.enter_context(Worker(name, threads)) for name in files}
        config, prompts, tallies = compete(workers, model, course, rounds=rounds, files=files, say=say)
        fidelity = {}
        if REFERENCE in workers:
            say("comparing distributions")
            fidelity = measure_fidelity(workers, REFERENCE, prompts)
        operations = profile(workers["millet"], course, config.vocab_size) if profiled else {}
    roof = best_roof(before, measure_roof(read_bytes=size))
    return report(tallies, config, roof, course, rounds) | {"fidelity": fidelity, "operations": operations}


def compete(
    workers: Mapping[str, Caller],
    model: str,
    course: Sequence[Phase],
    *,
    rounds: int,
    files: Mapping[str, Path | None] | None = None,
    say: Say = lambda text: None,
) -> tuple[ModelConfig, list[list[int]], dict[str, Tally]]:
    """Start and load every contender, then `rounds` times through all phases, taking turns.

    Millet comes first in `workers`: it says which file the model is, of what shape, and how it reads real prompts.
    """
    tallies = {name: Tally() for name in workers}
    first: dict[str, Any] = {}
    for name, worker in workers.items():
        say(f"loading: {name}")
        own = (files or {}).get(name)
        started = worker.call("start")
        loaded = worker.call("load", model=str(own or first.get("path", model)))
        first = first or loaded
        tally = tallies[name]
        tally.start_seconds, tally.load_seconds = started["seconds"], loaded["seconds"]
        tally.bare_bytes, tally.versions = started["bare_bytes"], started["versions"]
        tally.threads, tally.build = loaded["threads"], loaded.get("build")
        tally.cache_itemsize = loaded["cache_itemsize"]
        tally.native, tally.integers = loaded.get("native", False), loaded.get("integers", False)
        tally.weight_bytes = loaded["weight_bytes"] if "weight_bytes" in loaded else weight_bytes(Path(loaded["path"]))
        tally.peak_bytes["load"] = loaded["peak_bytes"]
        worker.call("generate", prompts=[[1] * PROMPT], new_tokens=4)  # first calls build caches that stay
    config = ModelConfig.from_hf(first["config"])
    for number in range(rounds):
        for phase in course:
            for name, worker in workers.items():
                say(f"round {number + 1} of {rounds}: {phase.name}, {name}")
                # The same seed for every contender and its own for every round and phase.
                _run(worker, tallies[name], phase, config.vocab_size, random.Random(f"{number} {phase.name}"))
    return config, first["prompts"], tallies


def profile(worker: Caller, course: Sequence[Phase], vocabulary: int) -> dict[str, dict[str, float]]:
    """By phase, the seconds of each operation in one more run of it."""
    found = {}
    for phase in course:
        draw = random.Random(f"profile {phase.name}")
        prompts = [[draw.randrange(vocabulary) for _ in range(phase.prompt)] for _ in range(phase.batch)]
        found[phase.name] = worker.call("profile", prompts=prompts, new_tokens=phase.new_tokens)["operations"]
    return found


def _run(worker: Caller, tally: Tally, phase: Phase, vocabulary: int, draw: random.Random) -> None:
    """One round of a phase."""
    times = []
    for new_tokens in phase.calls:
        prompts = [[draw.randrange(vocabulary) for _ in range(phase.prompt)] for _ in range(phase.batch)]
        answer = worker.call("generate", prompts=prompts, new_tokens=new_tokens)
        tally.token_ids += answer["token_ids"]
        tally.peak_bytes.setdefault(phase.name, answer["peak_bytes"])
        times.append(answer["seconds"])
    tally.seconds.setdefault(phase.name, []).append(times)


def best_roof(*roofs: Roof) -> Roof:
    """The highest figure of each kind: a disturbance can only lower them."""
    bf16 = [roof.bf16 for roof in roofs if roof.bf16 is not None]
    int8 = [roof.int8 for roof in roofs if roof.int8 is not None]
    return Roof(
        read=max(roof.read for roof in roofs),
        fp32=max(roof.fp32 for roof in roofs),
        bf16=max(bf16) if bf16 else None,
        int8=max(int8) if int8 else None,
        dispatch=min(roof.dispatch for roof in roofs),
        device=roofs[0].device,
        threads=roofs[0].threads,
    )
