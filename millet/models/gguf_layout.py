"""How GGUF names and lays out what Hugging Face names and lays out differently, for each architecture.

GGUF files are written by llama.cpp's converter, and this undoes what it does (github.com/ggml-org/llama.cpp,
conversion/): other names; the experts of a layer stacked in one tensor; the rows of Llama's queries and keys in another
order; DeepSeek's kv_b split into its key half, transposed, and its value half.

Shape legend: D model width, H heads, K head width, N its part without position, W value width, R latent rank.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

from torch import Tensor

from millet.errors import BadWeights

WHOLE_MODEL = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
}
LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "attn_q_a": "self_attn.q_a_proj",
    "attn_q_a_norm": "self_attn.q_a_layernorm",
    "attn_q_b": "self_attn.q_b_proj",
    "attn_kv_a_mqa": "self_attn.kv_a_proj_with_mqa",
    "attn_kv_a_norm": "self_attn.kv_a_layernorm",
    "attn_kv_b": "self_attn.kv_b_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "ffn_gate_inp": "mlp.gate",
    "ffn_gate_shexp": "mlp.shared_experts.gate_proj",
    "ffn_up_shexp": "mlp.shared_experts.up_proj",
    "ffn_down_shexp": "mlp.shared_experts.down_proj",
}
EXPERTS = {"ffn_gate_exps": "gate_proj", "ffn_up_exps": "up_proj", "ffn_down_exps": "down_proj"}
# Frequencies: what they say is in the configuration (gguf_config.py).
SKIPPED = re.compile(r"rope_freqs\.weight|blk\.\d+\.attn_rot_embd\.weight")

View = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class Part:
    """The values of a GGUF tensor from number `first` on fill `view(out)`, in order."""

    tensor: str
    first: int = 0
    view: View = lambda out: out


@dataclass(frozen=True, slots=True)
class Source:
    shape: tuple[int, ...]
    parts: tuple[Part, ...]


def sources(metadata: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Source]:
    """Where each Hugging Face parameter of the file comes from. A tensor with no Hugging Face name keeps its own."""
    found: dict[str, Source] = {}
    for tensor, shape in shapes.items():
        if SKIPPED.fullmatch(tensor):
            continue
        prefix, layer, stem, kind = _split(tensor)
        if layer and stem in EXPERTS and len(shape) == 3:
            for expert in range(shape[0]):
                name = f"{prefix}mlp.experts.{expert}.{EXPERTS[stem]}.{kind}"
                found[name] = Source(shape[1:], (Part(tensor, expert * prod(shape[1:])),))
        elif layer and stem == "attn_k_b" and tensor.replace("k_b", "kv_b") not in shapes:
            found[f"{prefix}self_attn.kv_b_proj.weight"] = _joined_kv_b(tensor, shapes)
        elif layer and stem == "exp_probs_b":
            found[f"{prefix}mlp.gate.e_score_correction_bias"] = Source(shape, (Part(tensor),))
        elif layer and stem in LAYER:
            view = _llama_rows(metadata, stem)
            found[f"{prefix}{LAYER[stem]}.{kind}"] = Source(shape, (Part(tensor, view=view),))
        elif not layer and stem in WHOLE_MODEL:
            found[f"{WHOLE_MODEL[stem]}.{kind}"] = Source(shape, (Part(tensor),))
        elif not (layer and stem in ("attn_k_b", "attn_v_b")):  # in kv_b_proj already
            found[tensor] = Source(shape, (Part(tensor),))
    return found


def _split(tensor: str) -> tuple[str, bool, str, str]:
    """`blk.3.attn_q.weight` to (`model.layers.3.`, True, `attn_q`, `weight`)."""
    match = re.fullmatch(r"(?:blk\.(\d+)\.)?(\w+)\.(weight|bias)", tensor)
    if match is None:
        return "", False, tensor, ""
    if match[1] is None:
        return "", False, match[2], match[3]
    return f"model.layers.{match[1]}.", True, match[2], match[3]


def _llama_rows(metadata: Mapping[str, Any], stem: str) -> View:
    """Llama's queries and keys are stored with the two entries that RoPE turns together side by side, (0, K/2), (1,
    K/2 + 1), ...; Hugging Face has the first entry of every pair, then the second ones."""
    if metadata.get("general.architecture") != "llama" or stem not in ("attn_q", "attn_k"):
        return lambda out: out
    heads = metadata["llama.attention.head_count"]
    if stem == "attn_k":
        heads = metadata.get("llama.attention.head_count_kv", heads)
    return lambda out: out.unflatten(0, (heads, 2, -1)).transpose(1, 2)  # [H, K/2, 2, ...]


def _joined_kv_b(key_tensor: str, shapes: Mapping[str, tuple[int, ...]]) -> Source:
    """kv_b_proj [H (N + W), R] from k_b [H, R, N] and v_b [H, W, R]."""
    value_tensor = key_tensor.replace("attn_k_b", "attn_v_b")
    key, value = shapes[key_tensor], shapes.get(value_tensor, ())
    if len(key) != 3 or len(value) != 3 or (key[0], key[1]) != (value[0], value[2]):
        raise BadWeights(f"{key_tensor} and {value_tensor} do not fit together; convert or pull the model again")
    heads, rank, width = key

    def key_rows(out: Tensor) -> Tensor:
        return out.unflatten(0, (heads, -1))[:, :width].transpose(1, 2)

    def value_rows(out: Tensor) -> Tensor:
        return out.unflatten(0, (heads, -1))[:, width:]

    shape = (heads * (width + value[1]), rank)
    return Source(shape, (Part(key_tensor, view=key_rows), Part(value_tensor, view=value_rows)))
