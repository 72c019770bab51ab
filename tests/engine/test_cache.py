import random

import pytest

from millet.engine.cache import ROOT, BlockPool


def remember_all(pool: BlockPool, tokens: list[int]) -> list[int]:
    blocks, parent = [], ROOT
    for start in range(0, len(tokens), pool.block_size):
        block = pool.allocate()
        parent = pool.remember(block, parent, tuple(tokens[start : start + pool.block_size]))
        blocks.append(block)
    return blocks


def test_a_prefix_is_found_and_shared():
    pool = BlockPool(8, 2)
    blocks = remember_all(pool, [1, 2, 3, 4, 5, 6])
    pool.release(blocks)
    assert pool.num_free == 8
    found, serials = pool.match([1, 2, 3, 4, 9, 9])
    assert found == blocks[:2]
    assert len(set(serials)) == 2
    assert pool.num_free == 6
    again, _ = pool.match([1, 2, 3, 4, 5])
    assert again == blocks[:2]
    assert [pool.holders(b) for b in found] == [2, 2]


def test_same_tokens_after_another_prefix_are_another_block():
    pool = BlockPool(8, 2)
    pool.release(remember_all(pool, [1, 2, 7, 8]))
    assert pool.match([3, 4, 7, 8])[0] == []
    assert pool.match([7, 8])[0] == []


def test_the_tail_is_forgotten_before_its_prefix():
    pool = BlockPool(4, 1)
    pool.release(remember_all(pool, [1, 2, 3]))
    for _ in range(2):
        pool.allocate()  # the never-used block, then the tail
    blocks, _ = pool.match([1, 2, 3])
    assert len(blocks) == 2


def test_a_forgotten_block_is_never_found_again(seed):
    rng = random.Random(seed)
    pool = BlockPool(6, 2)
    contents: dict[int, list[int]] = {}
    for _ in range(500):
        tokens = [rng.randrange(2) for _ in range(2 * rng.randrange(1, 4))]
        found, serials = pool.match(tokens)
        for number, block in enumerate(found):
            assert contents[block] == tokens[: 2 * number + 2]
        parent = serials[-1] if serials else ROOT
        held = list(found)
        for start in range(2 * len(found), len(tokens), 2):
            block = pool.allocate()
            contents[block] = tokens[: start + 2]
            parent = pool.remember(block, parent, tuple(tokens[start : start + 2]))
            held.append(block)
        pool.release(held)
        assert pool.num_free == 6


def test_no_block_left_is_an_error():
    pool = BlockPool(1, 4)
    pool.allocate()
    with pytest.raises(KeyError):
        pool.allocate()
