"""Operations with gradients by hand against the same in PyTorch's own operations."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from millet.kernels import gradients


def draw(seed: int, *shapes: tuple[int, ...], dtype: torch.dtype = torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=dtype).requires_grad_() for shape in shapes]


def test_rms_norm(seed: int) -> None:
    x, weight = draw(seed, (5, 3, 8), (8,))
    expected = F.rms_norm(x, (8,), weight, 1e-5)
    torch.testing.assert_close(gradients.rms_norm(x, weight, 1e-5), expected)
    assert torch.autograd.gradcheck(lambda x, w: gradients.rms_norm(x, w, 1e-5), (x, weight))


def test_swiglu(seed: int) -> None:
    gate, up = draw(seed, (5, 7), (5, 7))
    torch.testing.assert_close(gradients.swiglu(gate, up), F.silu(gate) * up)
    assert torch.autograd.gradcheck(gradients.swiglu, (gate, up))


@pytest.mark.parametrize("interleaved", [False, True])
def test_rotate(seed: int, interleaved: bool) -> None:
    x, angle = draw(seed, (5, 3, 8), (5, 1, 4))
    cos, sin = angle.detach().cos(), angle.detach().sin()
    pairs = torch.view_as_complex(x.unflatten(-1, (4, 2)) if interleaved else torch.stack(x.chunk(2, -1), -1))
    turned = torch.view_as_real(pairs * torch.complex(cos, sin))
    expected = turned.flatten(-2) if interleaved else torch.cat(turned.unbind(-1), -1)
    torch.testing.assert_close(gradients.rotate(x, cos, sin, interleaved), expected)
    assert torch.autograd.gradcheck(lambda x: gradients.rotate(x, cos, sin, interleaved), (x,))


@pytest.mark.parametrize("frozen", [(), (0,), (1, 3)], ids=["all", "no input gradient", "frozen weight and bias"])
def test_linear(seed: int, frozen: tuple[int, ...]) -> None:
    tensors = draw(seed, (5, 8), (4, 8), (6, 8), (4,))
    for i in frozen:
        tensors[i].requires_grad_(False)

    def by_hand(x: Tensor, w: Tensor, v: Tensor, b: Tensor) -> tuple[Tensor, ...]:
        return gradients.linear(x, [w, v], [b, None])

    x, w, v, b = tensors
    torch.testing.assert_close(by_hand(*tensors), (F.linear(x, w, b), F.linear(x, v)))
    assert torch.autograd.gradcheck(by_hand, tensors)


def test_a_result_of_linear_that_nothing_uses(seed: int) -> None:
    x, w, v = draw(seed, (5, 8), (4, 8), (6, 8))
    gradients.linear(x, [w, v], [None, None])[1].sum().backward()
    assert w.grad is None
    torch.testing.assert_close(x.grad, v.detach().sum(0).expand(5, 8))


@pytest.mark.parametrize("rows", [3, gradients.FEW_ROWS + 1])
def test_linear_in_fp32(seed: int, rows: int) -> None:
    """Where oneDNN computes; the rows may be those of a larger tensor."""
    x, w, b, g = draw(seed, (rows, 2, 40), (33, 40), (33,), (rows, 33), dtype=torch.float32)
    ours = gradients.linear(x[:, 1], [w], [b])[0]
    theirs = F.linear(x[:, 1], w, b)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    expected = torch.autograd.grad(theirs, (x, w, b), g.detach())
    for mine, other in zip(torch.autograd.grad(ours, (x, w, b), g.detach()), expected, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("input_grad", [True, False])
def test_adapted_linear(seed: int, input_grad: bool) -> None:
    x, w, bias, a, b = draw(seed, (5, 8), (6, 8), (6,), (2, 8), (6, 2))
    w.requires_grad_(False)
    bias.requires_grad_(False)
    x.requires_grad_(input_grad)
    expected = F.linear(x, w, bias) + 1.5 * (x @ a.t()) @ b.t()

    def by_hand(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
        return gradients.adapted_linear(x, gradients.Adapted(w, a, b, 1.5), bias)

    torch.testing.assert_close(by_hand(x, a, b), expected)
    assert torch.autograd.gradcheck(by_hand, (x, a, b))


def test_gradients_of_what_is_not_computed(seed: int) -> None:
    x, w, bias, a, b, g, up, weight = draw(seed, (5, 8), (6, 8), (6,), (2, 8), (6, 2), (5, 6), (5, 8), (8,))
    y = draw(seed, (5, 8))[0]
    cos, sin = (t.detach() for t in draw(seed, (5, 1, 2), (5, 1, 2)))
    adapted = gradients.Adapted(w.detach(), a, b, 1.5)
    for run, wanted, g_like in (
        (lambda c: gradients.linear(x, [w], [bias], computed=c)[0], (x, w, bias), g),
        (lambda c: gradients.adapted_linear(x, adapted, None, computed=c), (x, a, b), g),
        (lambda c: gradients.rms_norm(x, weight, 1e-5, computed=c), (x, weight), y),
        (lambda c: gradients.swiglu(x, up, computed=c), (x, up), y),
        (lambda c: gradients.rotate(x.view(5, 2, 4), cos, sin, False, computed=c), (x,), y.view(5, 2, 4)),
    ):
        computed, only = run(True), run(False)
        assert only.shape == computed.shape
        expected = torch.autograd.grad(computed, wanted, g_like)
        for mine, other in zip(torch.autograd.grad(only, wanted, g_like), expected, strict=True):
            assert torch.equal(mine, other)
