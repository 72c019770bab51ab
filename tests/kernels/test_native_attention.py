"""Native attention over the block cache: against plain sums in float64, and the same bits however it is cut up."""

import random
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from millet.kernels.block_cache import BLOCK_SIZE, BlockCache
from millet.kernels.paged import Span
from tests.kernels.steps import attention_in_float64, run_attention

pytestmark = pytest.mark.usefixtures("with_native")

ROUNDING = 1e-5
"""A score in fp32 is off by some 1e-6 and so is its weight e^s; a thousand weighted values of order 1 are summed."""

SHAPES = [  # query heads, key/value heads, key width, value width, value inside the key
    pytest.param((6, 2, 8, 8, False), id="grouped"),
    pytest.param((4, 4, 64, 64, False), id="every head its own"),
    pytest.param((9, 3, 5, 33, False), id="odd widths"),
    pytest.param((3, 1, 17, 1, False), id="one value"),
    pytest.param((5, 1, 20, 16, True), id="latent"),
    pytest.param((16, 1, 37, 29, True), id="odd latent"),
]
NUM_BLOCKS = 400


class Text:
    """One sequence: its queries, keys and values for one layer, and the blocks it will be kept in."""

    def __init__(self, length: int, heads: int, groups: int, width: int, value_width: int, in_key: bool) -> None:
        self.q, self.k = torch.randn(length, heads, width), torch.randn(length, groups, width)
        self.v = None if in_key else torch.randn(length, groups, value_width)
        self.value_width = value_width
        self.table: list[int] = []

    def __len__(self) -> int:
        return len(self.q)

    def placed(self, blocks: list[int]) -> "Text":
        self.table = [blocks.pop() for _ in range(-(-len(self) // BLOCK_SIZE))]
        return self

    def expected(self, dtype: torch.dtype, scale: float) -> Tensor:
        k = self.k.to(dtype).float()
        v = k[..., : self.value_width] if self.v is None else self.v.to(dtype).float()
        return attention_in_float64(self.q, k, v, scale)


def cache_for(shape: tuple, dtype: torch.dtype, layers: int = 1) -> BlockCache:
    _, groups, width, value_width, in_key = shape
    return BlockCache(
        layers=layers,
        kv_heads=groups,
        key_width=width,
        value_width=value_width,
        value_in_key=in_key,
        num_blocks=NUM_BLOCKS,
        dtype=dtype,
    )


def step(
    cache: BlockCache, parts: list[tuple[Text, int, int]], scale: float, count: int, layer: int = 0
) -> list[Tensor]:
    """Rows start .. stop - 1 of several texts in one call."""
    spans = [Span(start, stop - start, text.table) for text, start, stop in parts]
    q, k = (torch.cat([getattr(text, name)[a:b] for text, a, b in parts]) for name in "qk")
    v = None if parts[0][0].v is None else torch.cat([text.v[a:b] for text, a, b in parts if text.v is not None])
    width = parts[0][0].value_width
    out = run_attention(cache, spans, q, k, v, scale=scale, value_width=width, layer=layer, count=count)
    return list(out.split([span.length for span in spans]))


def scattered(seed: int) -> list[int]:
    blocks = list(range(NUM_BLOCKS))
    random.Random(seed).shuffle(blocks)
    return blocks


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("shape", SHAPES)
def test_random_steps_over_scattered_blocks_are_the_plain_sums(seed: int, shape: tuple, dtype: torch.dtype) -> None:
    torch.manual_seed(seed)
    rng = random.Random(seed)
    cache, blocks = cache_for(shape, dtype, layers=2), scattered(seed)
    layers = [[Text(n, *shape) for n in (1, 15, 16, 17, 600, 1100)] for _ in range(2)]
    for first, second in zip(*layers, strict=True):
        second.table = first.placed(blocks).table  # the same blocks, in another layer of the cache
    done = [0] * 6
    outs: list[list[list[Tensor]]] = [[[] for _ in texts] for texts in layers]
    while any(done[i] < len(text) for i, text in enumerate(layers[0])):
        lengths = [min(rng.choice([0, 1, 1, 7, 40, 300]), len(t) - n) for t, n in zip(layers[0], done, strict=True)]
        chosen = [i for i in rng.sample(range(6), 6) if lengths[i]]
        if not chosen:
            continue
        for layer, texts in enumerate(layers):
            parts = [(texts[i], done[i], done[i] + lengths[i]) for i in chosen]
            for i, out in zip(chosen, step(cache, parts, 0.3, rng.choice([1, 2, 3]), layer), strict=True):
                outs[layer][i].append(out)
        for i in chosen:
            done[i] += lengths[i]
    for layer, texts in enumerate(layers):
        for text, found in zip(texts, outs[layer], strict=True):
            torch.testing.assert_close(torch.cat(found).double(), text.expected(dtype, 0.3), atol=ROUNDING, rtol=2e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_same_bits_in_chunks_in_company_and_on_any_number_of_threads(
    seed: int, shape: tuple, dtype: torch.dtype
) -> None:
    torch.manual_seed(seed)
    blocks, length = scattered(seed), 1100
    text = Text(length, *shape).placed(blocks)
    (whole,) = step(cache_for(shape, dtype), [(text, 0, length)], 0.4, 1)
    others = [Text(n, *shape).placed(blocks) for n in (3, 530, 700)]
    for chunk, counts in ((1, (2,)), (16, (1, 3)), (250, (1, 2, 3)), (length, (2, 3))):
        for count in counts:
            cache = cache_for(shape, dtype)
            for a, b in pairwise([*range(0, length, chunk), length]):
                (found,) = step(cache, [(text, a, b)], 0.4, count)
                assert torch.equal(found, whole[a:b]), (chunk, count, a)
    for count in (1, 2, 3):
        cache = cache_for(shape, dtype)
        for other in others:
            step(cache, [(other, 0, len(other) - 1)], 0.4, count)
        step(cache, [(text, 0, 900)], 0.4, count)
        company = [(other, len(other) - 1, len(other)) for other in others]
        found = step(cache, [*company[:2], (text, 900, 1010), company[2]], 0.4, count)[2]
        assert torch.equal(found, whole[900:1010]), count
        found = step(cache, [*company, (text, 1010, 1011)], 0.4, count)[3]
        assert torch.equal(found, whole[1010:1011]), count


def test_scores_far_apart_do_not_overflow(seed: int) -> None:
    """One position with a score some hundreds above the others, and a span in which all are far below it."""
    torch.manual_seed(seed)
    shape = (2, 1, 8, 8, False)
    text = Text(1100, *shape).placed(scattered(seed))
    text.k[300] = text.q[-1, 0] * 60
    text.k[600:] *= 30
    (found,) = step(cache_for(shape, torch.float32), [(text, 0, 1100)], 1.0, 2)
    assert found.isfinite().all()
    torch.testing.assert_close(found.double(), text.expected(torch.float32, 1.0), atol=1e-4, rtol=1e-3)


def test_what_other_sequences_left_in_a_block_is_not_seen(seed: int) -> None:
    torch.manual_seed(seed)
    for shape in ((6, 2, 8, 8, False), (5, 1, 20, 16, True)):
        cache = cache_for(shape, torch.float32)
        before, text = Text(64, *shape), Text(37, *shape)
        before.table, text.table = [4, 9, 2, 7], [9, 7, 4]
        before.k *= 100
        step(cache, [(before, 0, 64)], 0.3, 2)
        found = torch.cat([step(cache, [(text, a, b)], 0.3, 2)[0] for a, b in ((0, 10), (10, 11), (11, 37))])
        torch.testing.assert_close(found.double(), text.expected(torch.float32, 0.3), atol=ROUNDING, rtol=2e-5)


def test_a_copied_block_is_the_same_in_every_layer(seed: int) -> None:
    torch.manual_seed(seed)
    cache = cache_for((2, 2, 4, 4, False), torch.float32, layers=3)
    cache.keys.normal_()
    assert cache.values is not None
    cache.values.normal_()
    keys, values = cache.keys.clone(), cache.values.clone()
    cache.copy_block(1, 4)
    assert torch.equal(cache.keys[:, 4], keys[:, 1])
    assert torch.equal(cache.values[:, 4], values[:, 1])
    for b in (0, 1, 2, 3, 5):
        assert torch.equal(cache.keys[:, b], keys[:, b])


def test_cached_halves_are_rounded_to_the_nearest(seed: int) -> None:
    """A sequence of one position gets its own value back: through the fp16 cache, whatever the exponent."""
    torch.manual_seed(seed)
    bits = torch.randint(-(2**31), 2**31, (4, 1, 10_000), dtype=torch.int64).to(torch.int32)
    exponent = torch.randint(127 - 27, 127 + 18, bits.shape, dtype=torch.int32)  # around what a half can hold
    value = ((bits & ~0x7F800000) | exponent << 23).view(torch.float32)
    ties = torch.randint(0, 2**15, (4, 1, 2000), dtype=torch.int32).to(torch.int16).view(torch.float16).float()
    step = (ties * 2.0**-11).clamp(min=2.0**-25)  # half of the distance to the next one, at most
    value = torch.cat((value, ties.nan_to_num(0.0, 0.0, 0.0), (ties + step).nan_to_num(0.0, 0.0, 0.0)), -1)
    cache = BlockCache(
        layers=1,
        kv_heads=1,
        key_width=1,
        value_width=value.shape[-1],
        value_in_key=False,
        num_blocks=4,
        dtype=torch.float16,
    )
    spans = [Span(0, 1, [i]) for i in range(4)]
    ones = torch.ones(4, 1, 1)
    found = run_attention(cache, spans, ones, ones, value, scale=1.0, value_width=value.shape[-1])
    assert torch.equal(found, value.half().float())
