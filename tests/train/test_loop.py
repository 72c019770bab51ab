import json
import random
import signal
from pathlib import Path

import pytest
import torch

from millet.errors import MilletError
from millet.train.checkpoint import Checkpoints, weights_hash
from millet.train.ledger import Arithmetic
from millet.train.loop import Loop, LoopSettings
from millet.train.metrics import read_log
from millet.train.optimizer import OptimizerSettings
from millet.train.progress import Silent
from millet.train.signals import Stopped
from tests.train import toy_run
from tests.train.forked import forked
from tests.train.toy_run import ToyMethod, toy_loop, toy_network

STEPS = 23
EVERY = 4


def toy(folder: Path, when: str = "") -> tuple[int | None, str]:
    """The exit code of a run in a process of its own, and what it said."""
    process = forked(toy_run.main, folder, STEPS, when)
    said = process.ended()
    return process.exit_codes[0], said


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The hash of a run that nothing happened to."""
    loop, network = toy_loop(tmp_path_factory.mktemp("whole"), STEPS)
    loop.run(Silent())
    return weights_hash(dict(network.named_parameters()))


def go_on(folder: Path, whole: str) -> None:
    """To the end, which must be that of the run that nothing happened to."""
    loop, network = toy_loop(folder, STEPS)
    assert loop.done > 0
    loop.run(Silent())
    assert weights_hash(dict(network.named_parameters())) == whole
    check_logs(folder)


def check_logs(folder: Path) -> None:
    for name in ("metrics", "samples"):
        records = read_log(folder / f"{name}.jsonl")
        assert [record["step"] for record in records] == list(range(1, STEPS + 1))


def test_killed_anywhere_it_ends_with_the_same_weights(tmp_path: Path, seed: int, whole: str) -> None:
    draw = random.Random(seed)
    first, second = draw.randrange(STEPS), draw.randrange(STEPS)
    assert toy(tmp_path, f"SIGKILL:{first}")[0] == -signal.SIGKILL
    again, _ = toy(tmp_path, f"kill-in-save:{second}")  # nothing happens where that step is before the checkpoint
    assert again == -signal.SIGKILL or second < first // EVERY * EVERY
    assert toy(tmp_path) == (0, f"{whole}\n")
    check_logs(tmp_path)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_signal_lets_the_step_end_and_saves(tmp_path: Path, name: str, whole: str) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Stopped, match="stopped after step 10 of 23 and saved; run the same command to go on"):
        toy_loop(tmp_path, STEPS, f"{name}:9")[0].run(Silent())
    assert signal.getsignal(signal.SIGTERM) == before
    assert Checkpoints(tmp_path / "checkpoints").steps() == [8, 10]
    go_on(tmp_path, whole)


def test_a_full_disk_is_one_line_and_costs_nothing_that_was_saved(tmp_path: Path, whole: str) -> None:
    _, said = toy(tmp_path, "disk-full:9")
    assert said.count("\n") == 1, said
    assert "step 8" in said
    assert "make room" in said
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["step-00000004", "step-00000008"]
    go_on(tmp_path, whole)


def test_a_loss_that_is_no_number_stops_before_it_spoils_the_weights(tmp_path: Path) -> None:
    loop, _ = toy_loop(tmp_path, STEPS, "inf:9")
    with pytest.raises(MilletError, match=r"the loss is (inf|nan) at step 10, .* checkpoint of step 8 stands"):
        loop.run(Silent())
    found = Checkpoints(tmp_path / "checkpoints").latest()
    assert found is not None
    assert all(value.isfinite().all() for value in found[1]["weights"].values())


def test_the_last_but_one_checkpoint_serves_where_the_last_is_spoilt(tmp_path: Path, whole: str) -> None:
    with pytest.raises(MilletError):
        toy_loop(tmp_path, STEPS, "inf:9")[0].run(Silent())
    state = tmp_path / "checkpoints" / "step-00000008" / "state.pt"
    state.write_bytes(state.read_bytes()[:-100])
    assert toy_loop(tmp_path, STEPS)[0].done == 4
    go_on(tmp_path, whole)


def test_micro_batches_add_up_to_the_gradient_of_the_step(tmp_path: Path) -> None:
    """Against PyTorch's optimiser on the whole step's loss, clipped by PyTorch."""
    network, reference = toy_network(), toy_network()
    settings = LoopSettings(optimizer=OptimizerSettings(learning_rate=0.05, clip=0.5), checkpoint_every=1000)
    torch.manual_seed(1)
    Loop(ToyMethod(network), dict(network.named_parameters()), 6, settings, tmp_path, Arithmetic(1, 1)).run(Silent())

    optimizer = torch.optim.AdamW(reference.parameters(), betas=(0.9, 0.99), weight_decay=0.0)
    method = ToyMethod(reference)
    torch.manual_seed(1)
    for step in range(6):
        optimizer.param_groups[0]["lr"] = 0.05 * settings.schedule.at(step, 6)
        sum(micro.loss for micro in method.micro_batches(step)).backward()
        torch.nn.utils.clip_grad_norm_(reference.parameters(), 0.5)
        optimizer.step()
        optimizer.zero_grad()
    for ours, theirs in zip(network.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_metrics_are_numbers_and_the_ledger_adds_them_up(tmp_path: Path) -> None:
    loop, _ = toy_loop(tmp_path, 5)
    ledger = loop.run(Silent())
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [record["nothing"] for record in records] == [None] * 5
    assert ledger.tokens == sum(record["cost"]["tokens"] for record in records) == 8 + 4 * 16
    assert ledger.sampled_tokens == 1 + 4 * 2
    assert ledger.flops == ledger.tokens * 600 + ledger.sampled_tokens * 200
    assert ledger.wall_seconds >= sum(record["cost"]["wall_seconds"] for record in records) > 0
    assert ledger.gpu_seconds == 0


def test_a_step_without_micro_batches_changes_nothing(tmp_path: Path) -> None:
    class Idle(ToyMethod):
        def micro_batches(self, step):  # type: ignore[no-untyped-def]
            return iter(())

    network = toy_network()
    before = weights_hash(dict(network.named_parameters()))
    settings = LoopSettings(optimizer=OptimizerSettings(weight_decay=0.1))
    Loop(Idle(network), dict(network.named_parameters()), 3, settings, tmp_path, Arithmetic(1, 1)).run(Silent())
    assert weights_hash(dict(network.named_parameters())) == before
    assert [record["loss"] for record in read_log(tmp_path / "metrics.jsonl")] == [None] * 3
