"""Native matrix products: against float64, and bit for bit against the order of sums that they promise."""

import os
import random
import signal
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import Tensor

from millet.kernels.matrix import GROUP, Matrix, NativeProduct
from millet.kernels.native.abi import Format
from tests.kernels.steps import (
    chain,
    quantised_activations,
    quantised_chain,
    random_quantised,
    run_products,
)

pytestmark = pytest.mark.usefixtures("with_native")

FLOATS = [Format.F32, Format.F16]
QUANTISED = [Format.Q8, Format.Q4_0, Format.Q4_1]
FORMATS = FLOATS + QUANTISED


def activations(rows: int, inputs: int) -> Tensor:
    """Rows of different size; zeros in some places, and a group of nothing else."""
    x_TK = torch.randn(rows, inputs) * 10 ** (torch.randn(rows, 1) / 2)
    x_TK[torch.rand(x_TK.shape) < 0.05] = 0.0
    x_TK[0, :GROUP] = 0.0
    return x_TK


def random_matrix(format: Format, outputs: int, inputs: int, seed: int) -> Matrix:
    generator = torch.Generator().manual_seed(seed)
    if format in QUANTISED:
        return random_quantised(format, outputs, inputs, generator)[0]
    return Matrix.pack(torch.randn(outputs, inputs, generator=generator), format)


def bound_in_float64(x_TK: Tensor, weight_FK: Tensor, quantised: bool, part: int = GROUP) -> Tensor:
    """How far a product may be off: half a step of each int8 activation, and the rounding of the sums."""
    x, w = x_TK.double(), weight_FK.double()
    bound = x.abs() @ w.abs().T * 2e-7 * (4 + x.shape[1] ** 0.5) + 1e-30
    if quantised:
        steps = torch.from_numpy(quantised_activations(x_TK, part)[1])
        half_step = steps.double().repeat_interleave(part, 1) * 0.501
        bound += half_step @ w.abs().T
    return bound


def assert_close(
    found: Tensor, x_TK: Tensor, weight_FK: Tensor, quantised: bool, more: Tensor | float = 0.0, part: int = GROUP
) -> None:
    expected = x_TK.double() @ weight_FK.double().T + more
    slack = 1e-6 * torch.as_tensor(more).double().abs()
    excess = (found.double() - expected).abs() - bound_in_float64(x_TK, weight_FK, quantised, part) - slack
    assert excess.max() <= 0, excess.max()


@pytest.mark.parametrize(("format", "fine"), [*((f, False) for f in FORMATS), *((f, True) for f in QUANTISED)])
def test_any_number_of_rows_is_right_to_the_last_bit(seed: int, format: Format, fine: bool) -> None:
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    for rows in range(1, 41):
        outputs, inputs = random.Random(seed + rows).choice([(1, 32), (16, 64), (37, 96), (50, 288), (100, 64)])
        x_TK = activations(rows, inputs)
        if format in QUANTISED:
            matrix, parts = random_quantised(format, outputs, inputs, generator)
            expected = quantised_chain(x_TK, parts, fine)
        else:
            matrix = Matrix.pack(torch.randn(outputs, inputs, generator=generator), format)
            expected = chain(x_TK, matrix.unpack())
        (found,) = run_products(x_TK, [matrix], fine=fine)
        assert torch.equal(found, expected), (rows, outputs, inputs)
        assert_close(found, x_TK, matrix.unpack(), format in QUANTISED, part=GROUP // 2 if fine else GROUP)


@pytest.mark.parametrize(("outputs", "inputs"), [(1, 1), (5, 3), (17, 33), (31, 255), (48, 257), (33, 700)])
@pytest.mark.parametrize("format", FLOATS)
def test_float_products_of_odd_sizes(seed: int, format: Format, outputs: int, inputs: int) -> None:
    torch.manual_seed(seed)
    matrix = random_matrix(format, outputs, inputs, seed)
    for rows in (1, 2, 5, 13, 27):
        x_TK = activations(rows, inputs)
        (found,) = run_products(x_TK, [matrix])
        assert torch.equal(found, chain(x_TK, matrix.unpack()))
        assert_close(found, x_TK, matrix.unpack(), False)


@pytest.mark.parametrize("format", FORMATS)
def test_products_side_by_side_with_biases_and_sums(seed: int, format: Format) -> None:
    torch.manual_seed(seed)
    for rows in (1, 3, 9, 40):
        matrices = [random_matrix(format, outputs, 96, seed + outputs) for outputs in (64, 17, 1, 33)]
        x_TK = activations(rows, 96)
        biases = [torch.randn(64), None, torch.randn(1), torch.randn(33)]
        adds = [None, torch.randn(rows, 17), torch.randn(rows, 1), torch.randn(rows, 33)]
        alone = [run_products(x_TK, [matrix])[0] for matrix in matrices]
        together = run_products(x_TK, matrices, biases, adds)
        for found, plain, matrix, bias, add in zip(together, alone, matrices, biases, adds, strict=True):
            expected = plain if bias is None else plain + bias
            expected = expected if add is None else expected + add
            assert torch.equal(found, expected)
            more = (0.0 if bias is None else bias.double()) + (0.0 if add is None else add.double())
            assert_close(found, x_TK, matrix.unpack(), format in QUANTISED, more)


def test_formats_may_be_mixed(seed: int) -> None:
    torch.manual_seed(seed)
    matrices = [random_matrix(format, 20 + format, 64, seed) for format in FORMATS[::-1]]
    x_TK = activations(7, 64)
    for found, matrix in zip(run_products(x_TK, matrices), matrices, strict=True):
        assert torch.equal(found, run_products(x_TK, [matrix])[0])


@pytest.mark.parametrize("rows", [1, 2, 11, 40])
@pytest.mark.parametrize("format", FORMATS)
def test_inputs_are_prepared_on_the_way(seed: int, format: Format, rows: int) -> None:
    torch.manual_seed(seed)
    for inputs in (64, 288) if format in QUANTISED else (64, 288, 70):
        matrices = [random_matrix(format, 40, inputs, seed), random_matrix(format, 7, inputs, seed + 1)]
        gate_TK, up_TK, weight_K = torch.randn(rows, inputs), torch.randn(rows, inputs), torch.randn(inputs)
        normed = gate_TK.double() / (gate_TK.double().square().mean(-1, keepdim=True) + 1e-5).sqrt() * weight_K
        gated = gate_TK.double() * torch.sigmoid(gate_TK.double()) * up_TK
        cases = [
            (normed.float(), run_products(gate_TK, matrices, norm=(weight_K, 1e-5))),
            (gated.float(), run_products(gate_TK, matrices, up_TD=up_TK)),
        ]
        for ready, outs in cases:
            for found, matrix in zip(outs, matrices, strict=True):
                size = ready.double().abs() @ matrix.unpack().double().abs().T
                # A number that lies on the edge between two int8 values may fall to either side of it.
                slack = 2 * bound_in_float64(ready, matrix.unpack(), format in QUANTISED) + 2e-6 * size
                assert ((found - ready.double() @ matrix.unpack().double().T).abs() <= slack).all()


@pytest.mark.parametrize(("outputs", "inputs"), [(17, 96), (200, 576), (48, 4128)])
@pytest.mark.parametrize("format", FORMATS)
def test_a_row_is_the_same_bits_in_any_company_on_any_number_of_threads(
    seed: int, format: Format, outputs: int, inputs: int
) -> None:
    torch.manual_seed(seed)
    matrices = [random_matrix(format, outputs, inputs, seed), random_matrix(format, 33, inputs, seed + 1)]
    x_TK, weight_K = activations(100, inputs), torch.randn(inputs)
    expected = torch.cat(run_products(x_TK, matrices, norm=(weight_K, 1e-6), count=1, fine=True), -1)
    plain = torch.cat(run_products(x_TK, matrices, count=1), -1)
    for count in (1, 2, 3):
        for start, rows in [(0, 100), (3, 1), (50, 2), (20, 7), (7, 31), (60, 40)]:
            part = x_TK[start : start + rows]
            found = torch.cat(run_products(part, matrices, norm=(weight_K, 1e-6), count=count, fine=True), -1)
            assert torch.equal(found, expected[start : start + rows]), (count, start, rows)
            found = torch.cat(run_products(part, matrices, count=count), -1)
            assert torch.equal(found, plain[start : start + rows]), (count, start, rows)


def test_rows_need_not_lie_side_by_side(seed: int) -> None:
    torch.manual_seed(seed)
    wide = torch.randn(9, 200)
    for format in FORMATS:
        matrix = random_matrix(format, 21, 64, seed)
        part = wide[:, 50:114]
        assert torch.equal(run_products(part, [matrix])[0], run_products(part.contiguous(), [matrix])[0])


def test_extreme_integers_do_not_overflow() -> None:
    """All weights and activations at the ends of their range: what 16-bit partial sums must hold."""
    for format, kind, byte in ((Format.Q8, "Q8_0", 0x80), (Format.Q8, "Q8_0", 0x7F), (Format.Q4_0, "Q4_0", 0xFF)):
        body = np.full((16, 4, 32 if format is Format.Q8 else 16), byte, np.uint8)
        scale = np.full((16, 4, 1), 1.0, np.float16).view(np.uint8)
        raw = torch.from_numpy(np.concatenate([scale, body], -1).reshape(-1))
        matrix = Matrix.from_gguf(raw, kind, (16, 128))
        for value in (-127.0, 127.0):
            x_TK = torch.full((5, 128), value)
            expected = x_TK.double() @ matrix.unpack().double().T
            for fine in (False, True):
                assert torch.equal(run_products(x_TK, [matrix], fine=fine)[0].double(), expected)


def test_callers_from_many_threads_do_not_disturb_each_other(seed: int) -> None:
    """Kernels run one at a time; who comes meanwhile waits. With more threads than cores, too."""
    torch.manual_seed(seed)
    matrices = [random_matrix(format, 64 + i, 288, seed + i) for i, format in enumerate(FORMATS)]
    inputs = [activations(rows, 288) for rows in (1, 7, 40, 3, 20)]
    expected = [run_products(x_TK, [matrix])[0] for x_TK, matrix in zip(inputs, matrices, strict=True)]

    def run(which: int) -> bool:
        x_TK, matrix = inputs[which % 5], matrices[which % 5]
        product = NativeProduct(matrix, x_TK, threads=1 + which % 4)
        repacked = Matrix.pack(matrix.unpack(), Format.F32).unpack()
        return torch.equal(product.run(), expected[which % 5]) and torch.equal(repacked, matrix.unpack())

    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(run, range(300)))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_child_has_threads_of_its_own(seed: int) -> None:
    torch.manual_seed(seed)
    matrix, x_TK = random_matrix(Format.F32, 640, 288, seed), activations(40, 288)
    product = NativeProduct(matrix, x_TK, threads=3)
    expected = product.run().clone()
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        product.y_TF.zero_()
        os._exit(0 if product.run().equal(expected) else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_every_half_is_read_exactly() -> None:
    """All 65,536 of them, subnormal ones too, as weights of a product with 1."""
    halves = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(torch.float16)
    matrix = Matrix.pack(halves[:, None].float(), Format.F16)
    rows = matrix.rows(torch.arange(len(halves)))
    for found in (run_products(torch.ones(1, 1), [matrix])[0][0], matrix.unpack()[:, 0], rows[:, 0]):
        assert torch.equal(found.isnan(), halves.isnan())
        assert torch.equal(found.nan_to_num(0.0), halves.float().nan_to_num(0.0))
