"""The chunked head against a plain log_softmax over all logits."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from millet.train import loss
from millet.train.loss import target_logprobs

ROWS, WIDTH, VOCABULARY = 11, 6, 17


@pytest.fixture(autouse=True, params=[0, ROWS * VOCABULARY], ids=["computed again", "kept"])
def kept(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> bool:
    """Whether probabilities are kept for backward."""
    monkeypatch.setattr(loss, "LOGITS", 4 * VOCABULARY)  # chunks of 4, 4 and 3 rows
    monkeypatch.setattr(loss, "KEPT", request.param)
    return request.param > 0


def draw(seed: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(ROWS, WIDTH, generator=generator, dtype=dtype).requires_grad_()
    weight = torch.randn(VOCABULARY, WIDTH, generator=generator, dtype=dtype).requires_grad_()
    return hidden, weight, torch.randint(VOCABULARY, (ROWS,), generator=generator)


def plain(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    return F.linear(hidden, weight).log_softmax(-1)[torch.arange(len(targets)), targets]


@pytest.mark.parametrize("trained", ["hidden", "weight", "both"])
def test_values_and_gradients(seed: int, trained: str) -> None:
    hidden, weight, targets = draw(seed, torch.float32)
    hidden.requires_grad_(trained != "weight")
    weight.requires_grad_(trained != "hidden")
    wanted = [t for t in (hidden, weight) if t.requires_grad]
    ours, theirs = target_logprobs(hidden, weight, targets), plain(hidden, weight, targets)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
    coefficients = torch.randn(ROWS, generator=torch.Generator().manual_seed(seed))
    expected = torch.autograd.grad(theirs, wanted, coefficients)
    for mine, other in zip(torch.autograd.grad(ours, wanted, coefficients), expected, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-5)


def test_gradients_in_float64(seed: int) -> None:
    hidden, weight, targets = draw(seed, torch.float64)
    assert torch.autograd.gradcheck(lambda h, w: target_logprobs(h, w, targets), (hidden, weight))
    assert torch.autograd.gradcheck(lambda h: target_logprobs(h, weight.detach(), targets), (hidden,))


def test_an_unlikely_target_is_not_rounded_to_impossible() -> None:
    hidden, weight = torch.tensor([[300.0]], requires_grad=True), torch.tensor([[1.0], [-1.0]])
    logprobs = target_logprobs(hidden, weight, torch.tensor([1]))
    assert logprobs.item() == pytest.approx(-600.0)
    logprobs.sum().backward()
    assert hidden.grad is not None
    assert hidden.grad.item() == pytest.approx(-2.0)


def test_logits_of_all_rows_never_exist(seed: int, monkeypatch: pytest.MonkeyPatch, kept: bool) -> None:
    hidden, weight, targets = draw(seed, torch.float32)
    seen = []
    monkeypatch.setattr(loss, "product", lambda h, w: seen.append(len(h)) or F.linear(h, w))  # type: ignore[func-returns-value]
    target_logprobs(hidden, weight, targets).sum().backward()
    assert seen == [4, 4, 3] * (1 if kept else 2)  # again in backward, for the weight's gradient
    seen.clear()
    target_logprobs(hidden, weight.detach(), targets).sum().backward()
    assert seen == [4, 4, 3]


def test_no_rows() -> None:
    hidden, weight = torch.zeros(0, WIDTH, requires_grad=True), torch.zeros(VOCABULARY, WIDTH)
    assert target_logprobs(hidden, weight, torch.zeros(0, dtype=torch.int64)).shape == (0,)
