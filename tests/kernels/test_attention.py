"""Packed and paged attention against plain softmax, one query at a time."""

import random

import pytest
import torch
from torch import Tensor

from millet.kernels.attention import PackedAttention
from millet.kernels.paged import PagedAttention, PagedCache, Span


def oracle(q_NHK: Tensor, k_SGK: Tensor, v_SGW: Tensor, scale: float) -> Tensor:
    """Row i of N sees the first S - N + i + 1 positions."""
    n, heads, _ = q_NHK.shape
    s, groups, _ = k_SGK.shape
    out = torch.zeros(n, heads, v_SGW.shape[-1], dtype=torch.float64)
    for i in range(n):
        seen = s - n + i + 1
        for h in range(heads):
            g = h // (heads // groups)
            weights = (q_NHK[i, h].double() @ k_SGK[:seen, g].double().T * scale).softmax(-1)
            out[i, h] = weights @ v_SGW[:seen, g].double()
    return out.float()


SHAPES = [  # query heads, key/value heads, key width, value width, value inside the key
    pytest.param(6, 2, 8, 8, False, id="grouped"),
    pytest.param(4, 4, 16, 16, False, id="every head its own"),
    pytest.param(4, 4, 12, 8, False, id="values narrower than keys"),
    pytest.param(5, 1, 20, 16, True, id="latent"),
]


@pytest.mark.parametrize(("heads", "groups", "width", "value_width", "in_key"), SHAPES)
def test_packed(seed, heads, groups, width, value_width, in_key):
    torch.manual_seed(seed)
    lengths = [1, 7, 3]
    q, k = torch.randn(11, heads, width), torch.randn(11, groups, width)
    v = None if in_key else torch.randn(11, groups, value_width)
    attention = PackedAttention(lengths)
    assert attention.positions_T.tolist() == [0, *range(7), *range(3)]
    out = attention.attend(0, q, k, v, scale=0.3, value_width=value_width)
    start = 0
    for n in lengths:
        rows = slice(start, start + n)
        values = k[rows, :, :value_width] if v is None else v[rows]
        torch.testing.assert_close(out[rows], oracle(q[rows], k[rows], values, 0.3), atol=1e-5, rtol=1e-5)
        start += n


@pytest.mark.parametrize(("heads", "groups", "width", "value_width", "in_key"), SHAPES)
def test_paged_in_random_steps_over_scattered_blocks(seed, heads, groups, width, value_width, in_key):
    torch.manual_seed(seed)
    rng = random.Random(seed)
    layers, block_size = 2, 4
    blocks = list(range(64))
    rng.shuffle(blocks)
    totals = [1, 4, 17, 30, 30]
    tables = [[blocks.pop() for _ in range(-(-n // block_size))] for n in totals]
    tables[3] = sorted(tables[3])
    tables[4] = list(range(100, 108))  # consecutive, in a part of the cache of its own
    cache = PagedCache(
        layers=layers,
        kv_heads=groups,
        key_width=width,
        value_width=value_width,
        value_in_key=in_key,
        num_blocks=110,
        block_size=block_size,
    )
    q = [[torch.randn(n, heads, width) for _ in range(layers)] for n in totals]
    k = [[torch.randn(n, groups, width) for _ in range(layers)] for n in totals]
    v = [[torch.randn(n, groups, value_width) for _ in range(layers)] for n in totals]
    done = [0] * len(totals)
    while done != totals:
        steps = [(i, min(rng.choice([0, 1, 1, 5]), totals[i] - done[i])) for i in rng.sample(range(5), 5)]
        steps = [(i, n) for i, n in steps if n]
        if not steps:
            continue
        attention = PagedAttention(cache, [Span(done[i], n, tables[i]) for i, n in steps])
        assert attention.absorbed == in_key
        for layer in range(layers):

            def rows(tensors, layer=layer, steps=steps):
                return torch.cat([tensors[i][layer][done[i] : done[i] + n] for i, n in steps])

            values = None if in_key else rows(v)
            out = attention.attend(layer, rows(q), rows(k), values, scale=0.2, value_width=value_width)
            start = 0
            for i, n in steps:
                end = done[i] + n
                seen = k[i][layer][:end, :, :value_width] if in_key else v[i][layer][:end]
                expected = oracle(q[i][layer][done[i] : end], k[i][layer][:end], seen, 0.2)
                torch.testing.assert_close(out[start : start + n], expected, atol=1e-5, rtol=1e-5)
                start += n
        for i, n in steps:
            done[i] += n


def test_a_copied_block_is_the_same_in_every_layer(seed):
    torch.manual_seed(seed)
    cache = PagedCache(layers=3, kv_heads=2, key_width=4, value_width=4, value_in_key=False, num_blocks=5, block_size=2)
    cache.keys.normal_()
    assert cache.values is not None
    cache.values.normal_()
    before = cache.keys.clone()
    cache.copy_block(1, 4)
    assert torch.equal(cache.keys[:, 8:10], before[:, 2:4])
    assert torch.equal(cache.values[:, 8:10], cache.values[:, 2:4])
    assert torch.equal(cache.keys[:, :8], before[:, :8])
