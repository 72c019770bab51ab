"""The MTP module against its formula written out around a decoder layer of transformers."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import DeepseekV3Config
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3DecoderLayer, DeepseekV3RotaryEmbedding

from millet.kernels.attention import PackedAttention
from millet.models.config import ModelConfig
from millet.models.network import Network, build
from tests.models.toy import V3, VOCAB, GrowingAttention, network_of, peer, randomise, routing_margin

SETTINGS = V3 | {"model_type": "deepseek_v3", "num_nextn_predict_layers": 2}
SETTINGS.pop("num_mtp_layers")
LAYERS = SETTINGS["num_hidden_layers"]
DEPTH = SETTINGS["num_nextn_predict_layers"]
SHARED = ("embed_tokens.weight", "shared_head.head.weight")


@pytest.fixture
def network(seed: int) -> Network:
    network = build(ModelConfig.from_hf(SETTINGS)).eval()
    randomise(network, seed)
    return network


def draw_ids(network: Network, lengths: list[int], seed: int) -> list[Tensor]:
    """Sequences with one token more for each module; see toy.draw_sequences."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        sequences = [torch.randint(VOCAB, (n + DEPTH,), generator=generator) for n in lengths]
        if routing_margin(network, run, sequences) > 1e-5:
            return sequences


@torch.no_grad()
def run(network: Network, sequences: list[Tensor]) -> list[Tensor]:
    """Hidden states of the main model and of each module in turn, all sequences in one pack."""
    lengths = [len(ids) - DEPTH for ids in sequences]
    attention = PackedAttention(lengths)
    hidden = [network(torch.cat([ids[:n] for ids, n in zip(sequences, lengths, strict=True)]), attention)]
    for k, module in enumerate(network.mtp, start=1):
        next_ids = torch.cat([ids[k : n + k] for ids, n in zip(sequences, lengths, strict=True)])
        hidden.append(module(next_ids, hidden[-1], attention))
    return hidden


def peer_layer(weights: dict[str, Tensor], prefix: str) -> DeepseekV3DecoderLayer:
    """The decoder layer of transformers with the weights of this name; it keeps experts stacked."""
    layer = DeepseekV3DecoderLayer(DeepseekV3Config(**SETTINGS), layer_idx=LAYERS)
    for name in ("gate", "up", "down"):
        stack = [weights[f"{prefix}mlp.experts.{e}.{name}_proj.weight"] for e in range(SETTINGS["n_routed_experts"])]
        weights[f"{prefix}stacked.{name}"] = torch.stack(stack)
    own = {name: weights[prefix + name] for name in layer.state_dict() if "mlp.experts." not in name}
    gate_up = torch.cat((weights[prefix + "stacked.gate"], weights[prefix + "stacked.up"]), 1)
    own |= {"mlp.experts.gate_up_proj": gate_up, "mlp.experts.down_proj": weights[prefix + "stacked.down"]}
    layer.load_state_dict(own)
    return layer.eval()


@torch.no_grad()
def by_the_formula(network: Network, k: int, next_ids: Tensor, hidden_TD: Tensor) -> Tensor:
    """Module k over one sequence, from tensors by their names on disk."""
    weights = dict(network.state_dict())
    prefix = f"model.layers.{LAYERS + k}."

    def norm(x: Tensor, name: str) -> Tensor:
        return x * (x.square().mean(-1, keepdim=True) + SETTINGS["rms_norm_eps"]).rsqrt() * weights[prefix + name]

    embedding_TD = weights["model.embed_tokens.weight"][next_ids]
    both = torch.cat((norm(embedding_TD, "enorm.weight"), norm(hidden_TD, "hnorm.weight")), -1)
    x_1TD = (both @ weights[prefix + "eh_proj.weight"].T)[None]
    length = len(next_ids)
    rotary = DeepseekV3RotaryEmbedding(DeepseekV3Config(**SETTINGS))
    # Positions of the embedded tokens, as transformers counts; only their differences matter.
    cos_sin = rotary(x_1TD, torch.arange(1, length + 1)[None])
    mask_11TT = torch.full((1, 1, length, length), -torch.inf).triu(1)
    layer = peer_layer(weights, prefix)
    return norm(layer(x_1TD, attention_mask=mask_11TT, position_embeddings=cos_sin)[0], "shared_head.norm.weight")


def test_modules_follow_the_formula(network: Network, seed: int) -> None:
    sequences = draw_ids(network, [13, 1, 8], seed)
    lengths = [len(ids) - DEPTH for ids in sequences]
    main, *drafts = [states.split(lengths) for states in run(network, sequences)]
    for k, found in enumerate(drafts):
        before = (main, *drafts)[k]
        for i, ids in enumerate(sequences):
            expected = by_the_formula(network, k, ids[k + 1 : lengths[i] + k + 1], before[i])
            assert expected.std() > 0.1
            torch.testing.assert_close(found[i], expected, atol=1e-4, rtol=0)


def test_modules_decode_from_cache_layers_of_their_own(network: Network, seed: int) -> None:
    [ids] = draw_ids(network, [12], seed)
    expected = run(network, [ids])
    attention = GrowingAttention(network.config.cache.layers, absorbed=True)
    found: list[list[Tensor]] = [[] for _ in expected]
    with torch.no_grad():
        for rows in torch.arange(12).split([5, 1, 1, 4, 1]):
            attention.expect(len(rows))
            states = network(ids[rows], attention)
            found[0].append(states)
            for k, module in enumerate(network.mtp, start=1):
                states = module(ids[rows + k], states, attention)
                found[k].append(states)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(torch.cat(ours), theirs, atol=1e-4, rtol=0)


def test_names_are_those_on_disk(network: Network) -> None:
    prefix = f"model.layers.{LAYERS}."
    names = {name.removeprefix(prefix) for name in network.state_dict() if name.startswith(prefix)}
    block = {
        name.removeprefix("model.layers.1.") for name in network.state_dict() if name.startswith("model.layers.1.")
    }
    own = {"enorm.weight", "hnorm.weight", "eh_proj.weight", "embed_tokens.weight"}
    assert names == block | own | {"shared_head.norm.weight", "shared_head.head.weight"}


def test_embedding_and_head_are_the_main_models_whatever_is_assigned(network: Network) -> None:
    prefix = f"model.layers.{LAYERS}."
    parameters = dict(network.named_parameters())
    assert {"lm_head.weight", "model.embed_tokens.weight"} <= set(parameters)
    shared = {f"model.layers.{LAYERS + k}.{name}" for k in range(DEPTH) for name in SHARED}
    assert set(network.state_dict()) - set(parameters) == shared
    network.lm_head.weight = nn.Parameter(torch.ones_like(network.lm_head.weight))
    assert network.state_dict()[prefix + "shared_head.head.weight"] is not None
    assert torch.equal(network.state_dict()[prefix + "shared_head.head.weight"], network.lm_head.weight)
    hidden = torch.randn(2, SETTINGS["hidden_size"])
    assert torch.equal(network.mtp[0].head(hidden), network.head(hidden))
    network.load_state_dict({name: tensor.clone() for name, tensor in network.state_dict().items()}, assign=True)
    assert network.mtp[1].embed_tokens is network.model.embed_tokens


def test_a_model_without_modules_has_none(seed: int, tmp_path: Path) -> None:
    network = network_of(peer("deepseek_v3", V3, seed), tmp_path)
    assert len(network.mtp) == 0
    assert network.config.cache.layers == LAYERS


def test_modules_of_a_tied_model_use_its_embedding() -> None:
    network = build(ModelConfig.from_hf(SETTINGS | {"tie_word_embeddings": True}))
    hidden = torch.randn(2, SETTINGS["hidden_size"])
    assert torch.equal(network.mtp[0].head(hidden), F.linear(hidden, network.model.embed_tokens.weight))
