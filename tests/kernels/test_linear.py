import pytest
import torch
from torch import nn

from millet.kernels.linear import LinearGroup, TiedHead, can_pack

needs_packing = pytest.mark.skipif(not can_pack(torch.zeros(1)), reason="this PyTorch was built without oneDNN")


class Block(nn.Module):
    def __init__(self, width: int, outputs: list[int], bias: bool) -> None:
        super().__init__()
        self.names = [f"part{i}" for i in range(len(outputs))]
        for name, out in zip(self.names, outputs, strict=True):
            self.add_module(name, nn.Linear(width, out, bias))
        self.group = LinearGroup(self, *self.names)


@needs_packing
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("width", "outputs"), [(7, [5]), (64, [64, 32, 32]), (130, [33, 1]), (1536, [576])])
def test_packed_equals_plain_and_unpacks_bit_for_bit(seed, width, outputs, bias):
    torch.manual_seed(seed)
    block = Block(width, outputs, bias)
    state = {name: value.clone() for name, value in block.state_dict().items()}
    with torch.inference_mode():
        for rows in (1, 2, 5, 33):
            x_TD = torch.randn(rows, width)
            plain = block.group(x_TD)
            block.group.pack()
            assert block.group.packed
            for packed_TF, plain_TF in zip(block.group(x_TD), plain, strict=True):
                torch.testing.assert_close(packed_TF, plain_TF, atol=1e-5, rtol=1e-5)
            block.group.unpack()
    for name, value in block.state_dict().items():
        assert torch.equal(value, state[name])


@needs_packing
@pytest.mark.parametrize("width", [40, 576, 1100, 1536])
def test_a_row_is_the_same_bits_in_any_company(seed, width):
    torch.manual_seed(seed)
    block = Block(width, [192, 64], bias=False)
    block.group.pack()
    with torch.inference_mode():
        x_TD = torch.randn(70, width)
        together = torch.cat(block.group(x_TD), dim=-1)
        for rows in (1, 2, 3, 8, 31):
            for start in (0, 13, 39):
                part = torch.cat(block.group(x_TD[start : start + rows]), dim=-1)
                assert torch.equal(part, together[start : start + rows]), (rows, start)


@needs_packing
@pytest.mark.parametrize(("vocabulary", "width"), [(64, 16), (1000, 24), (257, 37)])
def test_a_tied_table_is_kept_once_and_read_in_place(seed, vocabulary, width):
    torch.manual_seed(seed)
    owner = nn.Module()
    owner.table = nn.Embedding(vocabulary, width)
    table = owner.table.weight.detach().clone()
    head = TiedHead(owner, "table")
    head.pack()
    if not head.packed:
        pytest.skip("this oneDNN lays weights out in a way that cannot be read row by row")
    assert owner.table.weight.numel() == 0
    ids_T = torch.randint(vocabulary, (50,))
    assert torch.equal(head.embed(ids_T), table[ids_T])
    with torch.inference_mode():
        x_TD = torch.randn(3, width)
        torch.testing.assert_close(head(x_TD)[0], x_TD @ table.T, atol=1e-5, rtol=1e-5)
    head.unpack()
    assert torch.equal(owner.table.weight, table)
