"""Packed weights: what goes in comes out, exactly or as far off as the format says."""

import gguf
import numpy as np
import pytest
import torch
from torch import Tensor

from millet.kernels.dequantize import dequantize
from millet.kernels.matrix import GGUF_FORMATS, GROUP, SIZES, Matrix, matrix_bytes
from millet.kernels.native.abi import Format
from tests.kernels.steps import threads

pytestmark = pytest.mark.usefixtures("with_native")

SHAPES = [(1, 32), (5, 64), (16, 32), (17, 96), (40, 320), (129, 160)]
QUANTISED = [Format.Q8, Format.Q4_0]


def random_weights(seed: int, *shape: int) -> Tensor:
    """Rows of very different size, with zeros in all places: single ones, a whole group, a whole row."""
    generator = torch.Generator().manual_seed(seed)
    weight_FK = torch.randn(shape, generator=generator) * 10 ** torch.randn(shape[0], 1, generator=generator)
    weight_FK[torch.rand(shape, generator=generator) < 0.05] = 0.0
    weight_FK[0, :GROUP] = 0.0
    weight_FK[-1] = 0.0 if shape[0] > 1 else weight_FK[-1]
    return weight_FK


@pytest.mark.parametrize("shape", [*SHAPES, (1, 1), (3, 7), (18, 33), (33, 257)])
@pytest.mark.parametrize("format", [Format.F32, Format.F16])
def test_floats_come_back_exactly(seed: int, format: Format, shape: tuple[int, int]) -> None:
    weight_FK = random_weights(seed, *shape)
    expected = weight_FK if format is Format.F32 else weight_FK.half().float()
    assert torch.equal(Matrix.pack(weight_FK, format).unpack(), expected)
    assert torch.equal(Matrix.pack(weight_FK.bfloat16(), Format.F32).unpack(), weight_FK.bfloat16().float())


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("format", QUANTISED)
def test_quantising_follows_the_formula_within_its_error(seed: int, format: Format, shape: tuple[int, int]) -> None:
    weight_FK = random_weights(seed, *shape)
    found = Matrix.pack(weight_FK, format).unpack()
    groups = weight_FK.numpy().reshape(shape[0], -1, GROUP)
    peak = np.take_along_axis(groups, np.abs(groups).argmax(-1)[..., None], -1)  # with its sign; the first if equal
    step = np.abs(peak) / np.float32(127) if format is Format.Q8 else peak / np.float32(-8)
    with np.errstate(divide="ignore", invalid="ignore"):
        q = np.rint(groups * np.where(step != 0, np.float32(1) / step, 0).astype(np.float32))
    q = q.clip(-127, 127) if format is Format.Q8 else q.clip(-8, 7)
    expected = (q.astype(np.float32) * step.astype(np.float16).astype(np.float32)).reshape(shape)
    assert torch.equal(found, torch.from_numpy(expected))
    # Half a step (a whole one at the far end of four bits), and what the scale loses as fp16.
    size = np.abs(step)
    bound = size * (0.5 if format is Format.Q8 else 1.0) + np.abs(peak) * 2.0**-11 + 2.0**-24 * 128
    assert (np.abs(found.numpy().reshape(groups.shape) - groups) <= bound * 1.001).all()


@pytest.mark.parametrize("format", QUANTISED)
def test_what_was_quantised_once_is_not_changed_by_doing_it_again(seed: int, format: Format) -> None:
    once = Matrix.pack(random_weights(seed, 19, 96), format).unpack()
    again = Matrix.pack(once, format).unpack()
    torch.testing.assert_close(again, once, rtol=2e-3, atol=1e-7)


@pytest.mark.parametrize("shape", [*SHAPES, (70, 64)])
@pytest.mark.parametrize("format", [Format.F32, Format.F16, *QUANTISED])
def test_transposed_and_in_parts(seed: int, format: Format, shape: tuple[int, int]) -> None:
    matrix = Matrix.pack(random_weights(seed, *shape), format)
    whole = matrix.unpack()
    assert torch.equal(matrix.unpack(transposed=True), whole.t())
    parts = list(matrix.parts(32 * shape[1]))
    assert len(parts) == -(-shape[0] // 32)
    assert torch.equal(torch.cat([part.unpack() for _, part in parts]), whole)
    for outputs, part in parts:
        assert torch.equal(part.unpack(), whole[outputs])
        assert part.memory.untyped_storage().data_ptr() == matrix.memory.untyped_storage().data_ptr()


@pytest.mark.parametrize("rows", [1, 16, 35])
@pytest.mark.parametrize("kind", GGUF_FORMATS)
def test_bytes_of_a_gguf_file_keep_their_values(seed: int, kind: str, rows: int) -> None:
    rng = np.random.default_rng(seed)
    values = rng.standard_normal((rows, 96), dtype=np.float32) * rng.exponential(size=(rows, 1)).astype(np.float32)
    raw = gguf.quants.quantize(values, gguf.GGMLQuantizationType[kind])
    expected = gguf.quants.dequantize(raw, gguf.GGMLQuantizationType[kind])
    data = torch.from_numpy(np.ascontiguousarray(raw).view(np.uint8).reshape(-1).copy())
    found = Matrix.from_gguf(data, kind, (rows, 96)).unpack()
    assert torch.equal(found, torch.from_numpy(expected.astype(np.float32)))
    plain = torch.empty(rows * 96)
    dequantize(data, kind, plain)
    assert torch.equal(found.flatten(), plain)
    order_F = torch.from_numpy(rng.permutation(rows))
    assert torch.equal(Matrix.from_gguf(data, kind, (rows, 96), order_F).unpack(), found[order_F])


@pytest.mark.parametrize("format", Format)
def test_single_rows_are_those_of_the_whole(seed: int, format: Format) -> None:
    torch.manual_seed(seed)
    weight_FK = random_weights(seed, 37, 96)
    if format is Format.Q4_1:
        raw = gguf.quants.quantize(weight_FK.numpy(), gguf.GGMLQuantizationType.Q4_1)
        matrix = Matrix.from_gguf(torch.from_numpy(raw.reshape(-1).copy()), "Q4_1", (37, 96))
    else:
        matrix = Matrix.pack(weight_FK, format)
    ids_T = torch.randint(37, (50,))
    assert torch.equal(matrix.rows(ids_T), matrix.unpack()[ids_T])
    assert matrix.rows(ids_T[:0]).shape == (0, 96)


@pytest.mark.parametrize("format", [Format.F32, Format.F16, *QUANTISED])
def test_neither_threads_nor_strides_matter(seed: int, format: Format) -> None:
    weight_FK = random_weights(seed, 70, 64)
    packed = []
    for count in (1, 2, 3):
        with threads(count):
            packed += [Matrix.pack(weight_FK, format).memory, Matrix.pack(weight_FK.T.contiguous().T, format).memory]
            wider = torch.cat((weight_FK, weight_FK + 1), 1)
            packed.append(Matrix.pack(wider[:, :64], format).memory)
    assert all(torch.equal(memory, packed[0]) for memory in packed)


@pytest.mark.parametrize("format", Format)
def test_the_size_in_memory_is_what_the_planner_counts_on(format: Format) -> None:
    assert matrix_bytes(format, 1024, 256) == 1024 * 256 * SIZES[format]
    assert Matrix.pack(torch.zeros(3, 32), Format.Q8).memory.data_ptr() % 64 == 0


def test_widths_that_no_group_fits_are_refused() -> None:
    with pytest.raises(ValueError, match="no multiple of 32"):
        Matrix.pack(torch.zeros(4, 40), Format.Q8)


def test_fp32_is_not_rounded_to_what_only_files_have() -> None:
    with pytest.raises(ValueError, match="Q4_0"):
        Matrix.pack(torch.zeros(4, 32), Format.Q4_1)
