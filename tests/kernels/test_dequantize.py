"""Dequantisation against the `gguf` package, on fresh random blocks and on quantised weights."""

import gguf
import numpy as np
import pytest
import torch

from millet.kernels.dequantize import FORMATS, dequantize, dequantize_fp8_blocks

QUANTISED = [kind for kind, block in FORMATS.items() if block.unpack is not None]
SCALES = {  # byte offsets of the fp16 numbers in a block
    "Q8_0": [0],
    "Q4_0": [0],
    "Q4_1": [0, 2],
    "Q5_0": [0],
    "Q5_1": [0, 2],
    "Q4_K": [0, 2],
    "Q5_K": [0, 2],
    "Q6_K": [208],
}


def decode(raw: np.ndarray, kind: str) -> np.ndarray:
    out = torch.empty(raw.size // FORMATS[kind].size * FORMATS[kind].values)
    dequantize(torch.from_numpy(raw.reshape(-1)), kind, out)
    return out.numpy()


def oracle(raw: np.ndarray, kind: str) -> np.ndarray:
    return gguf.quants.dequantize(raw, gguf.GGMLQuantizationType[kind]).astype(np.float32).reshape(-1)


@pytest.mark.parametrize("kind", FORMATS)
def test_block_sizes_are_those_of_the_format(kind: str) -> None:
    assert gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]] == (FORMATS[kind].values, FORMATS[kind].size)


@pytest.mark.parametrize("kind", QUANTISED)
def test_random_blocks_decode_to_the_same_bits(kind: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    raw = rng.integers(0, 256, (999, FORMATS[kind].size), dtype=np.uint8)
    for offset in SCALES[kind]:  # any finite fp16 number, negatives and subnormals included
        scale = rng.integers(0, 2**16, 999, dtype=np.uint16)
        scale[~np.isfinite(scale.view(np.float16))] = 0x3C00
        raw[:, offset : offset + 2] = scale[:, None].view(np.uint8)
    np.testing.assert_array_equal(decode(raw, kind).view(np.uint32), oracle(raw, kind).view(np.uint32))


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"])  # what `gguf` can quantise itself
def test_quantised_weights_come_back_close(kind: str, seed: int) -> None:
    weights = np.random.default_rng(seed).standard_normal((64, 512), dtype=np.float32)
    raw = gguf.quants.quantize(weights, gguf.GGMLQuantizationType[kind])
    np.testing.assert_array_equal(decode(raw, kind), oracle(raw, kind))
    error = np.abs(decode(raw, kind) - weights.reshape(-1)).max()
    assert error < {"Q8_0": 0.05, "Q4_0": 1.0, "Q4_1": 0.5, "Q5_0": 0.5, "Q5_1": 0.25}[kind]


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16"])
def test_float_types_widen_exactly_at_any_alignment(kind: str, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(1000, generator=generator).to(FORMATS[kind].dtype)
    shifted = torch.cat([torch.zeros(1, dtype=torch.uint8), values.view(torch.uint8)])[1:]
    out = torch.empty(1000)
    dequantize(shifted, kind, out)
    assert torch.equal(out, values.float())


@pytest.mark.parametrize(("rows", "columns"), [(128, 256), (130, 300), (1, 5), (256, 128)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_fp8_blocks(rows: int, columns: int, dtype: torch.dtype, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, columns, generator=generator).to(torch.float8_e4m3fn)
    scale = torch.rand(-(-rows // 128), -(-columns // 128), generator=generator) + 0.5
    out = torch.empty(rows, columns, dtype=dtype)
    dequantize_fp8_blocks(weight, scale, out)
    expected = torch.empty(rows, columns)
    for r in range(rows):
        for c in range(0, columns, 128):
            expected[r, c : c + 128] = weight[r, c : c + 128].float() * scale[r // 128, c // 128]
    assert torch.equal(out, expected.to(dtype))


def test_an_fp8_row_of_300_columns_uses_three_scales() -> None:
    weight = torch.ones(1, 300).to(torch.float8_e4m3fn)
    out = torch.empty(1, 300)
    dequantize_fp8_blocks(weight, torch.tensor([[1.0, 2.0, 3.0]]), out)
    assert out[0, [0, 127, 128, 255, 256, 299]].tolist() == [1, 1, 2, 2, 3, 3]
