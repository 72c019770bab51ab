"""GRPO's loss and its gradients against TRL's, on one batch of a toy model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from torch import Tensor
from trl import GRPOConfig, GRPOTrainer

from millet.models.load import load
from millet.train.policy_loss import Objective, policy_loss
from millet.train.trainee import Trainee
from tests.models.files import toy, write_directory

PROMPTS = [5, 5, 3, 3]  # lengths; two replies to each of two questions
REPLIES = [4, 7, 1, 5]
LONGEST = 11  # that a reply may be, which "constant" divides by
PAD = 2


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = toy("llama-tied", 7)
    with torch.no_grad():
        model.get_parameter("model.embed_tokens.weight").mul_(0.1)  # else probabilities are steep, and rounding shows
    return write_directory(model, tmp_path_factory.mktemp("toy") / "model")


@pytest.fixture(scope="module")
def peer(directory: Path) -> Any:
    settings = GRPOConfig(
        output_dir=str(directory / "trl"),
        max_completion_length=LONGEST,
        num_generations=2,
        per_device_train_batch_size=len(REPLIES),
        use_bias_correction_kl=False,  # DeepSeek-V3.2's, which weighs the KL term with the ratio
        use_cpu=True,
        bf16=False,
        report_to="none",
        model_init_kwargs={"dtype": "float32"},
    )
    asked = Dataset.from_list([{"prompt": "hello"}] * len(REPLIES))
    trainer = GRPOTrainer(
        str(directory),
        reward_funcs=lambda completions, **_: [0.0] * len(completions),
        args=settings,
        train_dataset=asked,
    )
    trainer.current_gradient_accumulation_steps = 1
    return trainer


def padded(rows: list[list[Any]], left: bool, fill: float) -> Tensor:
    longest = max(map(len, rows))
    return torch.tensor([[fill] * (longest - len(r)) + r if left else r + [fill] * (longest - len(r)) for r in rows])


@pytest.mark.parametrize("kl", [0.0, 0.3])
@pytest.mark.parametrize(("low", "high"), [(0.2, 0.2), (0.2, 0.28), (10.0, 10.0)])
@pytest.mark.parametrize(
    ("average", "theirs"), [("reply", "grpo"), ("token", "bnpo"), ("token", "dapo"), ("constant", "dr_grpo")]
)
def test_loss_and_gradients_are_trls(
    average: Any, theirs: str, low: float, high: float, kl: float, directory: Path, peer: Any, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    trainee = Trainee(load(directory, dtype="float32"))
    vocabulary = trainee.model.config.vocab_size

    def ids(n: int) -> list[int]:
        return torch.randint(3, vocabulary, (n,), generator=generator).tolist()

    questions = [ids(PROMPTS[0]), ids(PROMPTS[2])]
    prompts = [questions[0], questions[0], questions[1], questions[1]]
    replies = [ids(n) for n in REPLIES]
    advantage = torch.randn(len(REPLIES), generator=generator)
    new = trainee.logprobs([p + r for p, r in zip(prompts, replies, strict=True)], PROMPTS)

    def near(spread: float) -> list[Tensor]:
        return [each.detach() + spread * torch.randn(each.shape, generator=generator) for each in new]

    old, reference = near(0.3), near(0.5)
    objective = Objective(clip_low=low, clip_high=high, kl=kl, average=average, length=LONGEST)
    found = policy_loss(new, old, advantage.tolist(), objective, reference if kl else None)
    found.loss.backward()

    peer.loss_type, peer.beta, peer.epsilon_low, peer.epsilon_high = theirs, kl, low, high
    peer.model.zero_grad()
    loss = peer._compute_loss(
        peer.model.train(),
        {
            "prompt_ids": padded(prompts, left=True, fill=PAD),
            "prompt_mask": padded([[1] * len(p) for p in prompts], left=True, fill=0),
            "completion_ids": padded(replies, left=False, fill=PAD),
            "completion_mask": padded([[1] * len(r) for r in replies], left=False, fill=0),
            "advantages": advantage,
            "old_per_token_logps": padded([each.tolist() for each in old], left=False, fill=0.0),
            "ref_per_token_logps": padded([each.tolist() for each in reference], left=False, fill=0.0),
            "num_items_in_batch": torch.tensor(sum(REPLIES)),
        },
    )
    loss.backward()
    assert found.loss.item() == pytest.approx(loss.item(), rel=1e-5, abs=1e-6)
    theirs_by_name = dict(peer.model.named_parameters())
    own = torch.cat([p.grad.flatten() for p in trainee.parameters.values()])
    expected = torch.cat([theirs_by_name[name].grad.flatten() for name in trainee.parameters])
    assert (own - expected).norm() < 1e-5 * (1 + expected.norm())
