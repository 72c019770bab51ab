import json
import re
import tempfile
from pathlib import Path

import pytest
import torch
from torch import Tensor

from millet.kernels.attention import PackedAttention
from millet.train.chain import train
from millet.train.data import Example, Renderer
from millet.train.metrics import read_log
from millet.train.recipe import read_recipe
from millet.train.sft import Sft, SftStage
from millet.train.trainee import Trainee
from tests.reasoning.toys import toy_model
from tests.train.toy_recipe import Heard, conversation, one_thread, write_toy  # noqa: F401 - a fixture

pytestmark = pytest.mark.usefixtures("one_thread")

GOLDEN = Path(__file__).parent / "golden_sft.json"
STEPS = 20


class Even:
    """A trainee for which every token is as likely as its id says."""

    def logprobs(self, sequences: list[list[int]], first: list[int]) -> list[Tensor]:
        return [-torch.tensor(ids[start:], dtype=torch.float32) for ids, start in zip(sequences, first, strict=True)]


def test_the_loss_is_the_mean_over_the_learned_tokens_of_the_step() -> None:
    examples = [
        Example.of([9, 9, 1, 2], [False, False, True, True]),
        Example.of([9, 3, 9, 9, 4], [False, True, False, False, True]),
        Example.of([9, 50], [False, True]),
    ]
    stage = SftStage(name="sft", data=("x",), micro_tokens=5, batch_tokens=15)
    method = Sft(Even(), examples, stage, seed=0)  # type: ignore[arg-type]
    assert method.steps == 1
    micros = list(method.micro_batches(0))
    assert len(micros) == 3
    assert sum(micro.loss.item() for micro in micros) == pytest.approx((1 + 2 + 3 + 4 + 50) / 5)
    assert sum(micro.tokens for micro in micros) == 11
    assert method.metrics() == {"learned_tokens": 5, "sequences": 3}


def test_packed_losses_and_gradients_are_those_of_each_sequence_alone() -> None:
    model = toy_model(3)
    examples = [e for a in range(5) for e in Renderer(model).examples(conversation(a, 2 * a)["messages"])]
    trainee = Trainee(toy_model(3))
    stage = SftStage(name="sft", data=("x",), micro_tokens=128, batch_tokens=1024)
    for micro in Sft(trainee, examples, stage, seed=0).micro_batches(0):
        micro.loss.backward()

    reference = toy_model(3).network
    reference.unpack()
    reference.requires_grad_(True)
    total = 0
    for example in examples:
        ids = torch.from_numpy(example.ids).long()
        # One sequence, all logits, PyTorch's own loss; -100 is what it leaves out.
        targets = torch.where(torch.from_numpy(example.learned), ids, -100)[1:]
        hidden = reference(ids[:-1], PackedAttention([len(ids) - 1]))
        torch.nn.functional.cross_entropy(reference.head(hidden), targets, reduction="sum").backward()
        total += int(example.learned.sum())
    expected = {name: p.grad / total for name, p in reference.named_parameters() if p.grad is not None}
    assert expected
    for name, gradient in expected.items():
        torch.testing.assert_close(trainee.parameters[name].grad, gradient, rtol=1e-3, atol=1e-6)


def test_one_example_is_there_to_be_read(tmp_path: Path) -> None:
    train(read_recipe(write_toy(tmp_path, epochs=1)), tmp_path / "out", Heard())
    (sample,) = read_log(tmp_path / "out" / "1-sft" / "samples.jsonl")
    assert sample["step"] == 1
    whole = re.fullmatch(
        r"<\|im_start\|>user\nWhat is (.*)\?<\|im_end\|>\n<\|im_start\|>assistant\n(.*)", sample["read"], re.DOTALL
    )
    assert whole is not None, sample["read"]
    assert sample["learned"] == whole[2]
    assert "<think>" in whole[2]
    assert "The answer is" in whole[2]


def golden_losses(folder: Path) -> list[float]:
    train(read_recipe(write_toy(folder, epochs=4)), folder / "out", Heard())
    return [record["loss"] for record in read_log(folder / "out" / "1-sft" / "metrics.jsonl")][:STEPS]


def test_losses_are_the_golden_ones(tmp_path: Path) -> None:
    """Twenty losses of a toy run, as they were when it was written. Rewrite them only for a change that means to change
    them: python -m tests.train.test_sft.

    Noise of 1e-7 in every weight, which is what rounding in another order amounts to, moved the losses by 1.4e-6; a
    learning rate that is wrong by a thousandth moved them by 1.2e-2. The tolerance is between the two.
    """
    losses = golden_losses(tmp_path)
    golden = json.loads(GOLDEN.read_text())
    assert len(losses) == STEPS
    assert losses == pytest.approx(golden, abs=1e-3)
    assert golden[-1] < golden[0] / 2, "the toy learns"


if __name__ == "__main__":
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        GOLDEN.write_text(json.dumps([round(loss, 6) for loss in golden_losses(Path(folder))]) + "\n")
