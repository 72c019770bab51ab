"""Toy models of transformers with random weights, the same weights in Millet's network, and attention in plain sums."""

import json
from collections.abc import Callable
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file
from torch import Tensor, nn

from millet.kernels.attention import PackedAttention
from millet.kernels.paged import PagedAttention, PagedCache, Span
from millet.models.config import ModelConfig, MoEConfig
from millet.models.moe import Router
from millet.models.network import Network, build

VOCAB = 61

DENSE = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5,
    "attn_implementation": "eager",
}
DEEPSEEK = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "moe_intermediate_size": 20,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "n_routed_experts": 12,
    "num_experts_per_tok": 3,
    "n_shared_experts": 2,
    "first_k_dense_replace": 1,
    "routed_scaling_factor": 1.7,
    "kv_lora_rank": 12,
    "q_lora_rank": 10,
    "qk_nope_head_dim": 14,
    "qk_rope_head_dim": 8,
    "v_head_dim": 6,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5,
    "attn_implementation": "eager",
}
V3 = DEEPSEEK | {"n_group": 4, "topk_group": 2, "num_mtp_layers": 0}


def peer(architecture: str, settings: dict, seed: int) -> nn.Module:
    """A model of transformers, every weight random: norms off 1, biases off 0, activations of order 1."""
    kind = {
        "llama": "Llama",
        "qwen2": "Qwen2",
        "qwen3": "Qwen3",
        "deepseek_v2": "DeepseekV2",
        "deepseek_v3": "DeepseekV3",
    }
    config = getattr(transformers, kind[architecture] + "Config")(**settings)
    model = getattr(transformers, kind[architecture] + "ForCausalLM")(config).eval()
    randomise(model, seed)
    return model


def randomise(model: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)

    def normal(tensor: Tensor) -> Tensor:
        return torch.randn(tensor.shape, generator=generator)

    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if "e_score_correction_bias" in name:
                # Negative ones included. Moderate, so that s + b of a chosen expert stays positive and versions of
                # transformers that mask with 0 instead of -inf agree; test_moe.py has the strongly negative ones.
                tensor.copy_(torch.rand(tensor.shape, generator=generator) - 0.5)
            elif tensor.dim() == 1:
                tensor.copy_(normal(tensor) * 0.2 + ("norm" in name))
            elif "embed_tokens" in name:
                tensor.copy_(normal(tensor))
            else:
                tensor.copy_(normal(tensor) * 1.5 * tensor.shape[-1] ** -0.5)


def network_of(model: nn.Module, directory: Path) -> Network:
    """The model as a person would get it: saved by transformers, config parsed, tensors put in by their names."""
    model.save_pretrained(directory)  # type: ignore[operator]
    config = ModelConfig.from_hf(json.loads((directory / "config.json").read_text()))
    with torch.device("meta"):
        network = build(config)
    network.load_state_dict(load_file(directory / "model.safetensors"), strict=True, assign=True)
    return network.eval()


def draw_sequences(network: Network, lengths: list[int], seed: int) -> list[Tensor]:
    """Random token ids, drawn again while a choice of experts is so close a call that rounding would decide it."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        sequences = [torch.randint(VOCAB, (n,), generator=generator) for n in lengths]
        if routing_margin(network, packed_logits, sequences) > 1e-5:
            return sequences


def peer_logits(model: nn.Module, sequences: list[Tensor]) -> list[Tensor]:
    with torch.no_grad():
        return [model(ids[None]).logits[0] for ids in sequences]


def packed_logits(network: Network, sequences: list[Tensor]) -> list[Tensor]:
    lengths = [len(ids) for ids in sequences]
    with torch.no_grad():
        return list(network.head(network(torch.cat(sequences), PackedAttention(lengths))).split(lengths))


def grown_logits(network: Network, ids: Tensor, absorbed: bool, steps: list[int]) -> Tensor:
    """One sequence fed in steps of these lengths, its earlier rows kept by `GrowingAttention`."""
    attention = GrowingAttention(network.config.cache.layers, absorbed)
    with torch.no_grad():
        return torch.cat([network.head(network(part, attention.expect(len(part)))) for part in ids.split(steps)])


def paged_logits(network: Network, sequences: list[Tensor], prefill: int, block_size: int, seed: int) -> list[Tensor]:
    """All sequences together through the paged cache: a chunk of `prefill` each, then one row each per step."""
    cache = network.config.cache
    tables_needed = [-(-len(ids) // block_size) for ids in sequences]
    paged = PagedCache(
        layers=cache.layers,
        kv_heads=cache.kv_heads,
        key_width=cache.key_width,
        value_width=cache.value_width,
        value_in_key=cache.value_in_key,
        num_blocks=sum(tables_needed),
        block_size=block_size,
    )
    blocks = torch.randperm(sum(tables_needed), generator=torch.Generator().manual_seed(seed))
    tables = [part.tolist() for part in blocks.split(tables_needed)]
    logits: list[list[Tensor]] = [[] for _ in sequences]
    start = 0
    while start < max(len(ids) for ids in sequences):
        stop = start + (prefill if start == 0 else 1)
        alive = [i for i, ids in enumerate(sequences) if start < len(ids)]
        parts = [sequences[i][start:stop] for i in alive]
        spans = [Span(start, len(part), tables[i]) for i, part in zip(alive, parts, strict=True)]
        with torch.no_grad():
            rows = network.head(network(torch.cat(parts), PagedAttention(paged, spans)))
        for i, part in zip(alive, rows.split([len(p) for p in parts]), strict=True):
            logits[i].append(part)
        start = stop
    return [torch.cat(parts) for parts in logits]


def differences(model: nn.Module, network: Network, seed: int) -> dict[str, float]:
    """The largest difference of any logit from those of transformers, by the way Millet computed it."""
    sequences = draw_sequences(network, [9, 1, 23], seed)
    theirs = peer_logits(model, sequences)
    latent = network.config.mla is not None
    steps = [[max(1, len(ids) // 2)] + [1] * (len(ids) - max(1, len(ids) // 2)) for ids in sequences]
    grown = [grown_logits(network, ids, latent, step) for ids, step in zip(sequences, steps, strict=True)]
    paged = paged_logits(network, sequences, prefill=6, block_size=4, seed=seed)
    ways = {"packed": packed_logits(network, sequences), "grown": grown, "paged": paged}
    return {way: largest_difference(ours, theirs) for way, ours in ways.items()}


def largest_difference(ours: list[Tensor], theirs: list[Tensor]) -> float:
    assert all(a.shape == b.shape for a, b in zip(ours, theirs, strict=True))
    assert torch.cat(theirs).std() > 0.1, "logits that are all alike compare nothing"
    return max((a - b).abs().max().item() for a, b in zip(ours, theirs, strict=True))


class GrowingAttention:
    """Attention of one sequence in plain sums; what a layer was given stays. Call `expect(n)` before each n rows."""

    def __init__(self, layers: int, absorbed: bool) -> None:
        self.kept: list[tuple[Tensor, Tensor] | None] = [None] * layers
        self.absorbed = absorbed
        self.positions_T = torch.arange(0)

    def expect(self, rows: int) -> "GrowingAttention":
        seen = len(self.kept[0][0]) if self.kept[0] else 0
        self.positions_T = torch.arange(seen, seen + rows)
        return self

    def attend(
        self, layer: int, q_THK: Tensor, k_TGK: Tensor, v_TGW: Tensor | None, *, scale: float, value_width: int
    ) -> Tensor:
        assert (v_TGW is None) == self.absorbed
        v_TGW = k_TGK[..., :value_width] if v_TGW is None else v_TGW
        past = self.kept[layer]
        k_SGK, v_SGW = (torch.cat((past[0], k_TGK)), torch.cat((past[1], v_TGW))) if past else (k_TGK, v_TGW)
        self.kept[layer] = k_SGK, v_SGW
        groups = q_THK.shape[1] // k_SGK.shape[1]
        k_SHK, v_SHW = k_SGK.repeat_interleave(groups, 1), v_SGW.repeat_interleave(groups, 1)
        scores_HTS = torch.einsum("thk,shk->hts", q_THK, k_SHK) * scale
        future_TS = torch.arange(len(k_SHK)) > self.positions_T[:, None]
        return torch.einsum("hts,shw->thw", scores_HTS.masked_fill(future_TS, -torch.inf).softmax(-1), v_SHW)


def choose_experts(choice_E: list[float], moe: MoEConfig) -> tuple[list[int], float]:
    """The rule of the paper in plain Python: the experts, best first, and the margin by which the closest call fell."""
    size = moe.num_experts // moe.num_groups
    groups = [range(g * size, (g + 1) * size) for g in range(moe.num_groups)]
    best_of_group = 2 if moe.correction_bias else 1
    group_scores = [sum(sorted((choice_E[e] for e in group), reverse=True)[:best_of_group]) for group in groups]
    ranking = sorted(range(moe.num_groups), key=lambda g: -group_scores[g])
    margins = [1.0]
    if moe.top_groups < moe.num_groups:
        margins.append(group_scores[ranking[moe.top_groups - 1]] - group_scores[ranking[moe.top_groups]])
    allowed = sorted((e for g in ranking[: moe.top_groups] for e in groups[g]), key=lambda e: -choice_E[e])
    if moe.top_k < len(allowed):
        margins.append(choice_E[allowed[moe.top_k - 1]] - choice_E[allowed[moe.top_k]])
    return allowed[: moe.top_k], min(margins)


def choice_scores(router: Router, logits_TE: Tensor) -> Tensor:
    """What the choice is made on: s + b, or s. fp32 [T, E]"""
    scores_TE = torch.sigmoid(logits_TE) if router.moe.scoring == "sigmoid" else torch.softmax(logits_TE, -1)
    return scores_TE + router.e_score_correction_bias if router.moe.correction_bias else scores_TE


Forward = Callable[[Network, list[Tensor]], object]


def routing_margin(network: Network, forward: Forward, sequences: list[Tensor]) -> float:
    """The smallest margin of any choice of experts while `forward` runs; 1 where nothing is routed."""
    margins = [1.0]

    def watch(router: Router, inputs: tuple[Tensor], _output: object) -> None:
        margins.extend(choose_experts(row, router.moe)[1] for row in choice_scores(router, inputs[0]).tolist())

    hooks = [module.register_forward_hook(watch) for module in network.modules() if isinstance(module, Router)]
    forward(network, sequences)
    for hook in hooks:
        hook.remove()
    return min(margins)
