"""Every operation on the native kernels, one at a time, against its PyTorch form: values and gradients."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from millet.kernels import ops
from millet.kernels.attention import PackedAttention
from millet.kernels.eager import EagerAttention, Native, target_logprobs
from millet.kernels.matrix import Matrix
from millet.kernels.native.abi import Format
from tests.kernels.steps import eager

pytestmark = pytest.mark.usefixtures("with_native")

ROWS = [1, 3, 20]


def compare(
    native: Callable[..., Any],
    plain: Callable[..., Tensor],
    rows: list[Tensor],
    parameters: list[Tensor],
    *,
    tolerance: float = 1e-5,
) -> None:
    """`native(*rows, *parameters)` gets `Rows`; both get leaves of their own, and the same gradient comes back."""
    sides = []
    for side in ("native", "plain"):
        leaves = [x.clone().requires_grad_() for x in (*rows, *parameters)]
        if side == "native":
            recorder = eager(len(rows[0]))
            wrapped = [Native(recorder, x) for x in leaves[: len(rows)]]
            out = native(*wrapped, *leaves[len(rows) :]).tensor
        else:
            out = plain(*(x.double() for x in leaves)).float()
        weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(1))
        (out * weights).sum().backward()
        sides.append((out.detach(), [x.grad for x in leaves]))
    (found, grads), (expected, expected_grads) = sides
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=tolerance)
    for grad, expected_grad in zip(grads, expected_grads, strict=True):
        assert grad is not None
        torch.testing.assert_close(grad, expected_grad, atol=10 * tolerance, rtol=10 * tolerance)


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("shape", [(1,), (7,), (64,), (3, 16), (5, 13)])
def test_norm(seed: int, rows: int, shape: tuple[int, ...]) -> None:
    torch.manual_seed(seed)
    x, weight = torch.randn(rows, *shape) * 3, torch.randn(shape[-1])

    def plain(x: Tensor, w: Tensor) -> Tensor:
        return x / (x.square().mean(-1, keepdim=True) + 1e-3).sqrt() * w

    compare(lambda x, w: ops.rms_norm(x, w, 1e-3), plain, [x], [weight])
    torch.testing.assert_close(ops.rms_norm(x, weight, 1e-3), plain(x, weight), atol=1e-5, rtol=1e-5)


def test_norm_of_nothing_but_zeros_is_zero() -> None:
    x = Native(eager(2), torch.zeros(2, 24))
    assert torch.equal(ops.rms_norm(x, torch.ones(24), 1e-6).tensor, torch.zeros(2, 24))


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("width", [1, 5, 16, 48, 83])
def test_swiglu_and_sum(seed: int, rows: int, width: int) -> None:
    torch.manual_seed(seed)
    gate, up = torch.randn(rows, width) * 4, torch.randn(rows, width)
    compare(ops.swiglu, lambda g, u: g / (1 + (-g).exp()) * u, [gate, up], [])
    compare(lambda x, y: x + y, torch.add, [gate, up], [])


def test_swiglu_far_out() -> None:
    gate = torch.tensor([[-1e4, -200.0, -90.0, -87.5, -20.0, 0.0, 20.0, 90.0, 200.0, 1e4]])
    found = ops.swiglu(Native(eager(1), gate), Native(eager(1), torch.ones_like(gate))).tensor
    expected = (gate.double() * torch.sigmoid(gate.double())).float()
    torch.testing.assert_close(found, expected, atol=1e-30, rtol=1e-6)


@pytest.mark.parametrize("rows", ROWS)
def test_join(seed: int, rows: int) -> None:
    torch.manual_seed(seed)
    for shape, other in (((5,), (11,)), ((3, 5), (3, 2)), ((1, 16), (1, 7))):
        parts = [torch.randn(rows, *shape), torch.randn(rows, *other)]
        compare(ops.join, lambda x, y: torch.cat((x, y), -1), parts, [])


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("pairs", [1, 3, 8, 16, 21])
def test_turn_and_rotate(seed: int, pairs: int, interleaved: bool) -> None:
    torch.manual_seed(seed)
    inv_freq_P, length = 1.0 / 100.0 ** torch.rand(pairs), 3000
    recorder = eager(length)
    turns = ops.turn(recorder.positions, inv_freq_P, 1.3)
    # The product of position and frequency is fp32's, as in every implementation; from there on it is exact.
    angle = (torch.arange(length, dtype=torch.float32)[:, None] * inv_freq_P).double()
    expected = torch.cat((angle.cos(), angle.sin()), -1) * 1.3
    torch.testing.assert_close(turns.tensor.double(), expected, atol=3e-7, rtol=1e-6)
    x = torch.randn(length, 3, 2 * pairs)

    def plain(x: Tensor) -> Tensor:
        first, second = (x[..., 0::2], x[..., 1::2]) if interleaved else x.chunk(2, -1)
        turned = torch.complex(first, second) * torch.polar(torch.tensor(1.3).double(), angle)[:, None]
        parts = torch.view_as_real(turned)
        return parts.flatten(-2) if interleaved else torch.cat((parts[..., 0], parts[..., 1]), -1)

    def native(x: Native) -> Native:
        return ops.rotate(x, ops.turn(x.recorder.positions, inv_freq_P, 1.3), interleaved)

    compare(native, plain, [x], [])


def test_rotating_part_of_a_head_leaves_the_other_alone(seed: int) -> None:
    torch.manual_seed(seed)
    x, inv_freq_P = torch.randn(9, 4, 20), torch.rand(4)

    def native(x: Native) -> Native:
        kept, turned = x.split((12, 8), -1)
        return ops.join(kept, ops.rotate(turned, ops.turn(x.recorder.positions, inv_freq_P, 1.0), True))

    def plain(x: Tensor) -> Tensor:
        turns = ops.turn(torch.arange(9), inv_freq_P.double(), 1.0)
        return torch.cat((x[..., :12], ops.rotate(x[..., 12:], turns, True)), -1)

    compare(native, plain, [x], [])


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("bias", [False, True])
def test_products(seed: int, rows: int, bias: bool) -> None:
    torch.manual_seed(seed)
    x, weight, b = torch.randn(rows, 37), torch.randn(19, 37), torch.randn(19)

    def native(x: Native, w: Tensor, *b: Tensor) -> Native:
        return ops.products(x, [Matrix.pack(w)], [b[0] if b else None], [w], False)[0]

    compare(native, lambda x, w, *b: F.linear(x, w, *b), [x], [weight, b] if bias else [weight])


def test_a_quantised_product_passes_the_gradient_on_to_its_input(seed: int) -> None:
    torch.manual_seed(seed)
    matrix = Matrix.pack(torch.randn(19, 64), Format.Q4_0)
    x = torch.randn(5, 64, requires_grad=True)
    (out,) = ops.products(Native(eager(5), x), [matrix], [None], [None], True)
    weights = torch.randn(5, 19)
    (out.tensor * weights).sum().backward()
    torch.testing.assert_close(x.grad, weights @ matrix.unpack(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("rows", ROWS)
def test_a_product_for_every_head(seed: int, rows: int) -> None:
    torch.manual_seed(seed)
    x, weight = torch.randn(rows, 5, 9), torch.randn(5, 21, 9)

    def native(x: Native, w: Tensor) -> Native:
        return ops.head_products(x, w, [Matrix.pack(head) for head in w])

    compare(native, lambda x, w: torch.einsum("thn,hfn->thf", x, w), [x], [weight])


@pytest.mark.parametrize("rows", ROWS)
def test_embedding(seed: int, rows: int) -> None:
    torch.manual_seed(seed)
    table = torch.randn(30, 21, requires_grad=True)
    recorder = eager(rows)
    recorder.ids.tensor.random_(30)
    recorder = type(recorder)(recorder.ids.tensor, [rows])
    out = ops.embed(recorder.ids, Matrix.pack(table), table).tensor
    assert torch.equal(out, table.detach()[recorder.ids.tensor])
    weights = torch.randn(out.shape)
    (out * weights).sum().backward()
    expected = torch.zeros(30, 21).index_add(0, recorder.ids.tensor, weights)
    torch.testing.assert_close(table.grad, expected)


@pytest.mark.parametrize(
    ("heads", "groups", "value_width", "in_key"), [(4, 2, 8, False), (3, 3, 5, False), (5, 1, 6, True)]
)
def test_attention(seed: int, heads: int, groups: int, value_width: int, in_key: bool) -> None:
    torch.manual_seed(seed)
    lengths = [1, 21, 40]
    q, k, v = torch.randn(62, heads, 8), torch.randn(62, groups, 8), torch.randn(62, groups, value_width)

    def native(q: Native, k: Native, *v: Native) -> Native:
        recorder = type(q.recorder)(torch.zeros(62, dtype=torch.int64), lengths)
        attention = EagerAttention(recorder, torch.float32)
        again = [Native(recorder, x.tensor) for x in (q, k, *v)]
        value = again[2] if v else None
        return attention.attend(0, again[0], again[1], value, scale=0.4, value_width=value_width)

    def plain(q: Tensor, k: Tensor, *v: Tensor) -> Tensor:
        return PackedAttention(lengths).attend(0, q, k, v[0] if v else None, scale=0.4, value_width=value_width)

    compare(native, plain, [q, k] if in_key else [q, k, v], [])


@pytest.mark.parametrize("vocabulary", [2, 61, 5000])
def test_log_probabilities_and_their_gradient(seed: int, vocabulary: int) -> None:
    torch.manual_seed(seed)
    targets_N = torch.randint(vocabulary, (9,))
    ours = (torch.randn(9, vocabulary) * 5).requires_grad_()
    theirs = ours.detach().double().requires_grad_()
    found = target_logprobs(ours, targets_N)
    expected = theirs.log_softmax(-1).gather(1, targets_N[:, None])[:, 0]
    torch.testing.assert_close(found.double(), expected, atol=1e-6, rtol=1e-6)
    weights = torch.randn(9)
    (found * weights).sum().backward()
    (expected * weights.double()).sum().backward()
    torch.testing.assert_close(ours.grad.double(), theirs.grad, atol=1e-6, rtol=1e-5)
