"""Llama, Qwen2 and Qwen3 against transformers, at toy size with random weights."""

from pathlib import Path

import pytest
import torch

from millet.kernels.attention import PackedAttention
from tests.models.toy import DENSE, VOCAB, differences, network_of, peer

YARN = {"rope_type": "yarn", "rope_theta": 1e3, "factor": 4.0, "original_max_position_embeddings": 64}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 1e3,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
CASES = {
    "llama": ("llama", {}),
    "llama tied, biased": ("llama", {"tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True}),
    "llama3 rope": ("llama", {"rope_parameters": LLAMA3}),
    "llama linear rope": ("llama", {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e3, "factor": 3.0}}),
    "qwen2": ("qwen2", {}),
    "qwen2 yarn": ("qwen2", {"rope_parameters": YARN, "tie_word_embeddings": True}),
    "qwen3": ("qwen3", {}),
    "qwen3 yarn": ("qwen3", {"rope_parameters": YARN, "attention_bias": True}),
}
CASES = {name: (kind, DENSE | change) for name, (kind, change) in CASES.items()}


@pytest.mark.parametrize(("kind", "settings"), CASES.values(), ids=CASES)
def test_logits_equal_those_of_transformers(kind: str, settings: dict, seed: int, tmp_path: Path) -> None:
    model = peer(kind, settings, seed)
    found = differences(model, network_of(model, tmp_path), seed)
    assert max(found.values()) <= 1e-4, found


def test_gradients_equal_those_of_transformers(seed: int, tmp_path: Path) -> None:
    model = peer("qwen3", DENSE, seed)
    network = network_of(model, tmp_path)
    ids = torch.randint(VOCAB, (11,), generator=torch.Generator().manual_seed(seed))
    model(ids[None], labels=ids[None]).loss.backward()
    logits = network.head(network(ids, PackedAttention([len(ids)])))
    torch.nn.functional.cross_entropy(logits[:-1], ids[1:]).backward()
    theirs = dict(model.named_parameters())
    for name, parameter in network.named_parameters():
        torch.testing.assert_close(parameter.grad, theirs[name].grad, atol=1e-5, rtol=1e-3)


def test_a_tied_head_has_no_weight_of_its_own(seed: int, tmp_path: Path) -> None:
    network = network_of(peer("llama", DENSE | {"tie_word_embeddings": True}, seed), tmp_path)
    assert "lm_head.weight" not in network.state_dict()


def test_bf16_weights_give_fp32_logits(seed: int, tmp_path: Path) -> None:
    network = network_of(peer("qwen3", DENSE, seed), tmp_path).bfloat16()
    hidden = network(torch.tensor([3, 1, 4]), PackedAttention([3]))
    assert hidden.dtype == torch.bfloat16
    assert network.head(hidden).dtype == torch.float32
