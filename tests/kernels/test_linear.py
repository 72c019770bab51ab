"""Packed products: they equal the plain ones, a row does not depend on its company, and packing is undone."""

import pytest
import torch
from torch import nn

from millet.kernels.eager import Eager, Native
from millet.kernels.linear import LinearGroup, Table, can_pack, onednn


@pytest.fixture(autouse=True)
def packing(way: str) -> None:
    """Every test packs for the native kernels, and for oneDNN."""
    if way == "torch" and not onednn():
        pytest.skip("this PyTorch was built without oneDNN")
    assert can_pack(torch.zeros(1))


def rows_through(group: LinearGroup, x_TD: torch.Tensor, way: str) -> tuple[torch.Tensor, ...]:
    """The outputs as the engine gets them: from the native kernels, or from oneDNN."""
    if way == "torch":
        return group(x_TD)
    eager = Eager(torch.zeros(len(x_TD), dtype=torch.int64), [len(x_TD)])
    return tuple(out.tensor for out in group(Native(eager, x_TD)))


class Block(nn.Module):
    def __init__(self, width: int, outputs: list[int], bias: bool) -> None:
        super().__init__()
        self.names = [f"part{i}" for i in range(len(outputs))]
        for name, out in zip(self.names, outputs, strict=True):
            self.add_module(name, nn.Linear(width, out, bias))
        self.group = LinearGroup(self, *self.names)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("width", "outputs"), [(7, [5]), (64, [64, 32, 32]), (130, [33, 1]), (1536, [576])])
def test_packed_equals_plain_and_unpacks_bit_for_bit(seed, width, outputs, bias, way):
    torch.manual_seed(seed)
    block = Block(width, outputs, bias)
    state = {name: value.clone() for name, value in block.state_dict().items()}
    with torch.inference_mode():
        for rows in (1, 2, 5, 33):
            x_TD = torch.randn(rows, width)
            plain = block.group(x_TD)
            block.group.pack()
            assert block.group.packed
            for found in (block.group(x_TD), rows_through(block.group, x_TD, way)):
                for packed_TF, plain_TF in zip(found, plain, strict=True):
                    torch.testing.assert_close(packed_TF, plain_TF, atol=1e-5, rtol=1e-5)
            block.group.unpack()
    for name, value in block.state_dict().items():
        assert torch.equal(value, state[name])


@pytest.mark.parametrize("width", [40, 576, 1100, 1536])
def test_a_row_is_the_same_bits_in_any_company(seed, width, way):
    torch.manual_seed(seed)
    block = Block(width, [192, 64], bias=False)
    block.group.pack()
    with torch.inference_mode():
        x_TD = torch.randn(70, width)
        together = torch.cat(rows_through(block.group, x_TD, way), dim=-1)
        for rows in (1, 2, 3, 8, 31):
            for start in (0, 13, 39):
                part = torch.cat(rows_through(block.group, x_TD[start : start + rows], way), dim=-1)
                assert torch.equal(part, together[start : start + rows]), (rows, start)


@pytest.mark.parametrize(("vocabulary", "width"), [(64, 16), (1000, 24), (257, 37)])
def test_a_tied_table_is_kept_once_and_read_in_place(seed, vocabulary, width, way):
    torch.manual_seed(seed)
    owner = nn.Module()
    owner.table = nn.Embedding(vocabulary, width)
    table = owner.table.weight.detach().clone()
    head = Table(owner, "table")
    head.pack()
    if not head.packed and way == "torch":
        pytest.skip("this oneDNN lays weights out in a way that cannot be read row by row")
    assert owner.table.weight.numel() == 0
    ids_T = torch.randint(vocabulary, (50,))
    assert torch.equal(head.embed(ids_T), table[ids_T])
    with torch.inference_mode():
        x_TD = torch.randn(3, width)
        torch.testing.assert_close(head(x_TD)[0], x_TD @ table.T, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(rows_through(head, x_TD, way)[0], x_TD @ table.T, atol=1e-5, rtol=1e-5)
    head.unpack()
    assert torch.equal(owner.table.weight, table)


def test_a_table_without_a_head_is_packed_for_the_native_kernels_only(seed, way):
    torch.manual_seed(seed)
    owner = nn.Module()
    owner.table = nn.Embedding(50, 24)
    plain = owner.table.weight.detach().clone()
    table = Table(owner, "table", head=False)
    table.pack()
    assert table.packed == (way == "native")
    ids_T = torch.randint(50, (20,))
    assert torch.equal(table.embed(ids_T), plain[ids_T])
    table.unpack()
    assert torch.equal(owner.table.weight, plain)


def test_products_follow_a_weight_that_changes(seed, with_native):
    """Trained weights are packed anew when an optimiser has moved them, or when somebody has put others in place."""
    torch.manual_seed(seed)
    block = Block(24, [17, 5], bias=True)
    x_TD = torch.randn(3, 24)
    for change in range(20):
        with torch.no_grad():
            if change % 3 == 0:
                block.part0.weight.mul_(1.5)
            elif change % 3 == 1:
                block.part1 = nn.Linear(24, 5)
            else:  # the second may get the address of what the first replaced
                block.part0.weight = nn.Parameter(torch.randn(17, 24))
                block.part0.weight = nn.Parameter(torch.randn(17, 24))
            expected = torch.cat(block.group(x_TD), -1)
            found = torch.cat(rows_through(block.group, x_TD, "native"), -1)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
