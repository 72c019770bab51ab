"""Two processes that train together, on CPUs by gloo, against one."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
import torch.distributed
from safetensors.torch import load_file

from millet.cli import main
from millet.errors import BadRequest
from millet.train import devices, sharding
from millet.train.chain import train
from millet.train.metrics import read_log
from millet.train.recipe import read_recipe
from millet.train.signals import Stopped
from tests.models.files import toy, write_directory
from tests.train import devices_run
from tests.train.forked import PATIENCE, Forked, together
from tests.train.test_grpo_stage import write as write_grpo
from tests.train.toy_recipe import STAGE, Heard, one_thread, write_toy  # noqa: F401 - a fixture

pytestmark = [
    pytest.mark.skipif(
        not (torch.distributed.is_available() and torch.distributed.is_gloo_available()),
        reason="this PyTorch has no gloo, by which processes speak to each other",
    ),
    pytest.mark.usefixtures("one_thread"),
]

# Of a step's line in metrics.jsonl, what two processes may find other than one does.
OWN = ("cost", "tokens_per_second", "mismatch_largest")


LAUNCHER = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]


def two(recipe: Path, out: Path) -> Forked:
    """Two processes that train, without torchrun, which takes ten times as long to start them."""
    return together(main.main, ["train", str(recipe), "--out", str(out)])


def torchrun(recipe: Path, out: Path) -> subprocess.Popen[str]:
    """Two processes under torchrun; its standard error is theirs."""
    words = [*LAUNCHER, "millet", "train", str(recipe), "--out", str(out)]
    return subprocess.Popen(words, env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=subprocess.PIPE, text=True)


def ended(process: subprocess.Popen[str]) -> str:
    """What it told till its end."""
    try:
        return process.communicate(timeout=PATIENCE)[1]
    except subprocess.TimeoutExpired:
        for child in psutil.Process(process.pid).children(recursive=True):
            child.kill()
        process.kill()
        pytest.fail(f"it did not end: {process.communicate()[1]}")


def workers(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """The processes that train, in the order of their ranks."""
    found = [p for p in psutil.Process(process.pid).children() if "millet" in p.cmdline()]
    return sorted(found, key=lambda p: int(p.environ()["RANK"]))


def in_step(process: subprocess.Popen[str], metrics: Path, step: int) -> None:
    """Wait until this step is done and the run goes on."""
    deadline = time.monotonic() + PATIENCE
    while not (metrics.exists() and metrics.read_bytes().count(b"\n") >= step):
        assert process.poll() is None, f"it ended before step {step}: {ended(process)}"
        assert time.monotonic() < deadline
        time.sleep(0.01)


def told(stderr: str) -> list[str]:
    return [line for line in stderr.splitlines() if line.startswith("millet: ")]


def records(folder: Path) -> list[dict[str, Any]]:
    return read_log(folder / "metrics.jsonl")


def assert_alike(one: Path, two: Path) -> None:
    """The same steps, to 1e-5 of each number."""
    alone, together = records(one), records(two)
    assert [each["step"] for each in together] == [each["step"] for each in alone]
    for a, b in zip(alone, together, strict=True):
        assert b["cost"]["tokens"] == a["cost"]["tokens"]
        assert b["cost"]["sampled_tokens"] == a["cost"]["sampled_tokens"]
        for name in (each for each in a if each not in OWN and not each.endswith("_seconds")):
            assert b[name] == pytest.approx(a[name], rel=1e-5, abs=1e-5), (one.name, a["step"], name)


def sft(name: str, more: str) -> str:
    return STAGE.replace('kind = "sft"', f'kind = "sft"\nname = "{name}"\nbase = "BASE"') + more


def test_gradients_add_up_to_those_of_one(tmp_path: Path, seed: int) -> None:
    """With a head of its own and one that is the embedding; and with experts, whose weights are not sharded."""
    cases = ["llama-biases", "qwen3-tied", "deepseek_v3"]
    directories = [str(write_directory(toy(case, seed), tmp_path / case)) for case in cases]
    said = together(devices_run.compare, directories).ended()
    assert said.split() == cases, said


def test_two_processes_learn_what_one_does(tmp_path: Path) -> None:
    """All weights by AdamW, with activations computed twice, and by Muon; an adapter: one chain for them all."""
    stages = [
        sft("full", "").replace("batch_tokens", "checkpointing = true\nbatch_tokens"),
        sft("muon", 'kind = "muon"\nweight_decay = 0.1\n'),
        sft("adapter", "[stage.lora]\nrank = 4\n"),
    ]
    path = write_toy(tmp_path, epochs=1, stages="".join(stages))
    path.write_text(path.read_text().replace("BASE", str(tmp_path / "toy")))
    said = (run := two(path, tmp_path / "two")).ended()
    assert run.exit_codes == [0, 0], said
    train(read_recipe(path), tmp_path / "one", Heard())
    for folder in ("1-full", "2-muon", "3-adapter"):
        assert_alike(tmp_path / "one" / folder, tmp_path / "two" / folder)
    for folder, file in (("1-full", "model.safetensors"), ("3-adapter", "adapter_model.safetensors")):
        alone, beside = (load_file(tmp_path / out / folder / "model" / file) for out in ("one", "two"))
        assert alone.keys() == beside.keys()
        for name, values in alone.items():
            torch.testing.assert_close(beside[name], values, rtol=0, atol=2e-3, msg=name)  # AdamW's steps have 3e-3
    assert sum("learned" in line for line in said.splitlines()) == 3, "each stage's pre-flight is told once"
    assert (
        f"torchrun --standalone --nproc-per-node 2 -m millet train {path}"
        in (tmp_path / "two" / "1-full" / "report.html").read_text()
    )
    environment = json.loads((tmp_path / "two" / "1-full" / "lineage.json").read_text())["environment"]
    assert environment["processes"] == 2


@pytest.mark.usefixtures("with_native")
def test_two_processes_sample_and_learn_what_one_does(tmp_path: Path) -> None:
    """Three questions among two processes: each samples its own, by the question's seed. First with sharded weights,
    from which the sampler gets whole ones; then an adapter in the sampler's bits."""
    path = write_grpo(tmp_path / "toy", steps=3, kl=0.05)
    head, stage = path.read_text().replace("questions = 2", "questions = 3").split("[[stage]]")
    names = f'name = "adapter"\nbase = "{tmp_path / "toy" / "toy"}"\n[stage.lora]\nrank = 4\n'
    adapter = stage.replace("[stage.optimizer]", names + "[stage.optimizer]")
    path.write_text(f"{head}[[stage]]{stage.replace('exact = true', '')}[[stage]]{adapter}")
    said = (run := two(path, tmp_path / "two")).ended()
    assert run.exit_codes == [0, 0], said
    train(read_recipe(path), tmp_path / "one", Heard())
    for folder in ("1-grpo", "2-adapter"):
        folders = [tmp_path / out / folder for out in ("one", "two")]
        assert_alike(*folders)
        alone, beside = ([sample["reply"] for sample in read_log(each / "samples.jsonl")] for each in folders)
        assert len(alone) == 3
        assert beside == alone
    assert all(each["mismatch_largest"] == 0 for each in records(tmp_path / "two" / "2-adapter"))


def test_killed_it_ends_in_one_line_and_goes_on_to_the_same_weights(tmp_path: Path, seed: int) -> None:
    """SIGKILL to either process behind a random step. Then once more: SIGTERM, and the rest by one process."""
    path = write_toy(tmp_path, epochs=4)
    whole, out = tmp_path / "whole", tmp_path / "out"
    assert not told(two(path, whole).ended())
    draw = random.Random(seed)
    process = torchrun(path, out)
    in_step(process, out / "1-sft" / "metrics.jsonl", draw.randrange(1, 10))
    workers(process)[draw.randrange(2)].kill()
    assert told(ended(process)) == [
        "millet: another process of this run has ended, and so did this one; run the same command to go on"
    ]
    assert process.returncode != 0
    ended(process := torchrun(path, out))
    assert process.returncode == 0
    sha256 = [json.loads((each / "1-sft" / "lineage.json").read_text())["sha256"] for each in (whole, out)]
    assert sha256[0] == sha256[1]
    assert_alike(whole / "1-sft", out / "1-sft")

    stopped = tmp_path / "stopped"
    process = torchrun(path, stopped)
    in_step(process, stopped / "1-sft" / "metrics.jsonl", 7)
    process.send_signal(signal.SIGTERM)
    stderr = ended(process)
    assert sum("saved; run the same command to go on" in line for line in stderr.splitlines()) == 1
    heard = Heard()
    train(read_recipe(path), stopped, heard)
    done = heard.begun[0][1]
    assert done >= 7
    assert heard.steps[0] == done + 1
    assert_alike(whole / "1-sft", stopped / "1-sft")


def test_two_processes_go_on_from_what_one_has_saved(tmp_path: Path) -> None:
    path = write_toy(tmp_path, epochs=2)
    train(read_recipe(path), tmp_path / "whole", Heard())

    class Stopping(Heard):
        def step(self, done: int, record: Any) -> None:
            if done == 6:
                os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Stopped):
        train(read_recipe(path), tmp_path / "out", Stopping())
    said = (run := two(path, tmp_path / "out")).ended()
    assert run.exit_codes == [0, 0], said
    assert_alike(tmp_path / "whole" / "1-sft", tmp_path / "out" / "1-sft")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda text: text.replace("epochs", "epoch"), "did you mean epochs?"),
        (lambda text: text.replace("micro_tokens = 256", "micro_tokens = 32"), "are longer than 32 tokens"),
    ],
    ids=["known-to-all", "in-the-stage"],
)
def test_an_error_is_told_once(tmp_path: Path, spoil: Callable[[str], str], message: str) -> None:
    path = write_toy(tmp_path)
    path.write_text(spoil(path.read_text()))
    (line,) = told(ended(torchrun(path, tmp_path / "out")))
    assert message in line


def test_one_process_has_all_of_it() -> None:
    assert list(devices.deal(["a", "b", "c"])) == [("a", 1), ("b", 1), ("c", 1)]
    assert devices.share([1, 2, 3], lambda items: [item * 2 for item in items]) == [2, 4, 6]
    assert devices.total(0.5, 3) == [0.5, 3]
    assert devices.from_first(lambda: "made") == "made"


def test_three_processes_are_dealt_all_micro_batches_once(monkeypatch: pytest.MonkeyPatch) -> None:
    items = list(range(7))
    dealt = []
    for rank in range(3):
        monkeypatch.setattr(devices, "_count", 3)
        monkeypatch.setattr(devices, "_rank", rank)
        dealt.append(list(devices.deal(items)))
    assert sorted(item for mine in dealt for item, weight in mine if weight) == items
    assert [len(mine) for mine in dealt] == [3, 3, 3], "all go through the model equally often"


def test_processes_that_would_share_a_gpu_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_count", 4)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    devices.check_gpus()
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(BadRequest, match="4 processes on this machine have 2 GPUs; start one for each"):
        devices.check_gpus()


def test_a_state_is_put_together_again() -> None:
    class Part(torch.Tensor):
        """What a DTensor is known by."""

        placements = ()

    part = torch.ones(2).as_subclass(Part)
    state = {"weights": {"a": part, "b": torch.zeros(1)}, "list": [1, "text", None, (part,)]}
    plain, shards = sharding.split(state)
    assert plain["weights"]["a"] == "sharded:/weights/a"
    assert len(shards) == 2
    again = sharding.join(plain, shards)
    assert torch.equal(again["weights"]["a"], part)
    assert again["list"][:3] == [1, "text", None]
    assert torch.equal(again["list"][3][0], part)
