"""KL in chunks against PyTorch's own over all logits, values and gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from millet.train import loss
from millet.train.divergence import Divergence, distance

ROWS, WIDTH, VOCABULARY = 11, 6, 17
SCALE = 0.25


@pytest.fixture(autouse=True)
def few_rows_a_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss, "LOGITS", 4 * VOCABULARY)  # chunks of 4, 4 and 3 rows


def draw(seed: int, dtype: torch.dtype = torch.float32, teacher_size: int = VOCABULARY) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(ROWS, WIDTH, generator=generator, dtype=dtype).requires_grad_()
    weight = torch.randn(VOCABULARY, WIDTH, generator=generator, dtype=dtype).requires_grad_()
    teacher = 2 * torch.randn(ROWS, teacher_size, generator=generator, dtype=dtype)
    return hidden, weight, torch.randint(min(VOCABULARY, teacher_size), (ROWS,), generator=generator), teacher


def plain(hidden: Tensor, weight: Tensor, targets: Tensor, teacher: Tensor, by: Divergence) -> Tensor:
    common = min(len(weight), teacher.shape[1])
    logits, teacher = F.linear(hidden, weight)[:, :common], teacher[:, :common]
    student_log = (logits / by.temperature).log_softmax(-1)
    teacher_log = (teacher / by.temperature).log_softmax(-1)
    given, other = (student_log, teacher_log) if by.direction == "forward" else (teacher_log, student_log)
    kl = F.kl_div(given, other, reduction="sum", log_target=True)  # of `other` from `given`
    ce = F.cross_entropy(logits, targets, reduction="sum")
    return SCALE * ((1 - by.cross_entropy) * by.temperature**2 * kl + by.cross_entropy * ce)


@pytest.mark.parametrize("teacher_size", [VOCABULARY, VOCABULARY + 4, VOCABULARY - 4])
@pytest.mark.parametrize("trained", ["hidden", "weight", "both"])
@pytest.mark.parametrize(("temperature", "share"), [(1.0, 0.0), (2.5, 0.0), (2.5, 0.3), (1.0, 1.0)])
@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_values_and_gradients(
    seed: int,
    direction: Any,
    temperature: float,
    share: float,
    trained: str,
    teacher_size: int,
) -> None:
    hidden, weight, targets, teacher = draw(seed, teacher_size=teacher_size)
    hidden.requires_grad_(trained != "weight")
    weight.requires_grad_(trained != "hidden")
    wanted = [t for t in (hidden, weight) if t.requires_grad]
    by = Divergence(direction, temperature, share)
    ours = distance(hidden, weight, targets, lambda rows: teacher[rows], by, SCALE).loss
    theirs = plain(hidden, weight, targets, teacher, by)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    expected = torch.autograd.grad(3 * theirs, wanted)
    for mine, other in zip(torch.autograd.grad(3 * ours, wanted), expected, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_gradients_in_float64(seed: int, direction: Any) -> None:
    hidden, weight, targets, teacher = draw(seed, torch.float64)
    by = Divergence(direction, 1.5, 0.2)

    ours = distance(hidden, weight, targets, lambda rows: teacher[rows], by, SCALE).loss
    expected = torch.autograd.grad(plain(hidden, weight, targets, teacher, by), (hidden, weight))
    for mine, other in zip(torch.autograd.grad(ours, (hidden, weight)), expected, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-6, atol=1e-9)


def test_what_is_told_beside_the_loss(seed: int) -> None:
    hidden, weight, targets, teacher = draw(seed)
    logits = F.linear(hidden, weight)
    teacher[0], teacher[1] = logits[0].detach(), -logits[1].detach()
    found = distance(hidden, weight, targets, lambda rows: teacher[rows], Divergence("forward", 2.0), 1.0)
    kl = torch.distributions.kl_divergence(
        torch.distributions.Categorical(logits=teacher / 2), torch.distributions.Categorical(logits=logits / 2)
    )
    assert kl[0].item() == pytest.approx(0, abs=1e-6)
    assert found.kl == pytest.approx(kl.sum().item(), rel=1e-5)
    assert found.cross_entropy == pytest.approx(F.cross_entropy(logits, targets, reduction="sum").item(), rel=1e-5)
    assert found.agreement == (logits.argmax(-1) == teacher.argmax(-1)).sum().item()


@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_what_the_other_thinks_impossible_is_a_number(direction: Any) -> None:
    hidden, weight = torch.tensor([[300.0]], requires_grad=True), torch.tensor([[1.0], [-1.0]])
    teacher = torch.tensor([[-300.0, 300.0]])
    found = distance(hidden, weight, torch.tensor([1]), lambda rows: teacher[rows], Divergence(direction), 1.0)
    assert found.loss.item() == pytest.approx(600)
    found.loss.backward()
    assert hidden.grad is not None
    assert torch.isfinite(hidden.grad).all()


def test_logits_of_all_rows_never_exist(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    hidden, weight, targets, teacher = draw(seed)
    own: list[int] = []
    asked: list[int] = []
    monkeypatch.setattr(loss, "product", lambda h, w: own.append(len(h)) or F.linear(h, w))  # type: ignore[func-returns-value]

    def rows(some: slice) -> Tensor:
        asked.append(len(teacher[some]))
        return teacher[some]

    distance(hidden, weight, targets, rows, Divergence("reverse"), 1.0).loss.backward()
    assert own == asked == [4, 4, 3], "once: backward needs none of them again"
