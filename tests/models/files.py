"""Toy models on disk: Hugging Face directories written by transformers, GGUF files written by the `gguf` package."""

import json
from pathlib import Path

import gguf
import numpy as np
import tokenizers
import torch
from safetensors.torch import load_file
from tokenizers import AddedToken, decoders, models, pre_tokenizers
from torch import Tensor, nn

from tests.models.toy import DEEPSEEK, DENSE, V3, peer

SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
LETTERS = sorted(pre_tokenizers.ByteLevel.alphabet())
MERGES = [("h", "e"), ("l", "l"), ("he", "ll"), ("hell", "o")]
TOKENS = [*SPECIALS, *LETTERS, *("".join(merge) for merge in MERGES)]
CHAT = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
VOCAB = {"vocab_size": 288, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}  # some rows stand for no token

# architecture, settings: what the readers and the writer must all get right
CASES = {
    "llama": ("llama", DENSE | {"num_key_value_heads": 2}),
    "llama-tied": ("llama", DENSE | {"tie_word_embeddings": True}),
    "llama-biases": ("llama", DENSE | {"attention_bias": True, "mlp_bias": True}),
    "qwen2": ("qwen2", DENSE),
    "qwen3": ("qwen3", DENSE),
    "qwen3-tied": ("qwen3", DENSE | {"tie_word_embeddings": True}),
    "deepseek_v2": ("deepseek_v2", DEEPSEEK | {"q_lora_rank": None}),
    "deepseek_v2-groups": (
        "deepseek_v2",
        DEEPSEEK | {"topk_method": "group_limited_greedy", "n_group": 4, "topk_group": 2},
    ),
    "deepseek_v3": ("deepseek_v3", V3 | {"norm_topk_prob": True}),
    "deepseek_v3-no-q-lora": ("deepseek_v3", V3 | {"q_lora_rank": None, "norm_topk_prob": False}),
}
YARN = {"rope_type": "yarn", "rope_theta": 1e3, "factor": 4.0, "original_max_position_embeddings": 64}


def toy(case: str, seed: int, **settings: object) -> nn.Module:
    """A model of transformers with a vocabulary that the toy tokenizer fits into."""
    architecture, base = CASES[case]
    return peer(architecture, base | VOCAB | settings, seed)


def write_directory(model: nn.Module, directory: Path, **settings: object) -> Path:
    """As `save_pretrained` leaves it, with tokenizer and chat template."""
    model.save_pretrained(directory, **settings)  # type: ignore[operator]
    write_tokenizer(directory)
    return directory


def write_tokenizer(directory: Path) -> None:
    tokenizer = tokenizers.Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(TOKENS)}, merges=MERGES))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in SPECIALS])
    tokenizer.save(str(directory / "tokenizer.json"))
    named = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "pad_token": "<|im_end|>"}
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": CHAT, **named}
    (directory / "tokenizer_config.json").write_text(json.dumps(config))


def tensors_of(model: nn.Module, directory: Path) -> dict[str, Tensor]:
    """The tensors under the names they have on disk."""
    model.save_pretrained(directory)  # type: ignore[operator]
    return load_file(directory / "model.safetensors")


def write_gguf(
    model: nn.Module,
    path: Path,
    kind: str = "F32",
    *,
    decoded: bool = False,
    split_kv_b: bool = True,
    extra: dict[str, str | int] | None = None,
    tensors: dict[str, Tensor] | None = None,
) -> Path:
    """A GGUF file of the model as llama.cpp's converter makes it; matrices in type `kind` where their rows allow it.

    decoded: stores, as F32, what the `gguf` package decodes from type `kind`. extra, tensors: added to the model's own.
    """
    config = model.config
    architecture = "deepseek2" if config.model_type.startswith("deepseek") else config.model_type  # type: ignore[union-attr]
    writer = gguf.GGUFWriter(path, architecture)
    _add_settings(writer, config, split_kv_b)
    _add_tokenizer(writer)
    for key, value in (extra or {}).items():
        if isinstance(value, str):
            writer.add_string(key, value)
        elif key == "general.alignment":
            writer.add_custom_alignment(value)
        else:
            writer.add_uint32(key, value)
    for name, tensor in (_converted(model, architecture, path.parent / "hf", split_kv_b) | (tensors or {})).items():
        _add_tensor(writer, name, tensor.numpy(), kind, decoded)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_settings(writer: gguf.GGUFWriter, config, split_kv_b: bool) -> None:  # type: ignore[no-untyped-def]
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    rope = config.rope_parameters
    writer.add_rope_freq_base(rope["rope_theta"])
    if rope["rope_type"] == "yarn":
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(rope["factor"])
        writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
        if "mscale_all_dim" in rope:
            writer.add_rope_scaling_yarn_log_mul(0.1 * rope["mscale_all_dim"])
    if not config.model_type.startswith("deepseek"):
        writer.add_head_count_kv(config.num_key_value_heads)
        writer.add_key_length(config.head_dim)
        writer.add_value_length(config.head_dim)
        writer.add_rope_dimension_count(config.head_dim)
        return
    key_width = config.qk_nope_head_dim + config.qk_rope_head_dim
    if split_kv_b:
        writer.add_head_count_kv(1)
        writer.add_key_length(config.kv_lora_rank + config.qk_rope_head_dim)
        writer.add_value_length(config.kv_lora_rank)
        writer.add_key_length_mla(key_width)
        writer.add_value_length_mla(config.v_head_dim)
    else:  # files from before llama.cpp decoded with absorbed projections
        writer.add_head_count_kv(config.num_attention_heads)
        writer.add_key_length(key_width)
        writer.add_value_length(config.v_head_dim)
    if config.q_lora_rank is not None:
        writer.add_q_lora_rank(config.q_lora_rank)
    writer.add_kv_lora_rank(config.kv_lora_rank)
    writer.add_rope_dimension_count(config.qk_rope_head_dim)
    writer.add_leading_dense_block_count(config.first_k_dense_replace)
    writer.add_expert_feed_forward_length(config.moe_intermediate_size)
    writer.add_expert_count(config.n_routed_experts)
    writer.add_expert_used_count(config.num_experts_per_tok)
    writer.add_expert_shared_count(config.n_shared_experts)
    writer.add_expert_weights_scale(config.routed_scaling_factor)
    if config.norm_topk_prob:
        writer.add_expert_weights_norm(True)
    if config.n_group is not None:
        writer.add_expert_group_count(config.n_group)
        writer.add_expert_group_used_count(config.topk_group)
    if config.model_type == "deepseek_v3":
        writer.add_expert_gating_func(gguf.ExpertGatingFuncType.SIGMOID)


def _add_tokenizer(writer: gguf.GGUFWriter) -> None:
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(TOKENS)
    kinds = [gguf.TokenType.CONTROL] * len(SPECIALS)
    writer.add_token_types(kinds + [gguf.TokenType.NORMAL] * (len(TOKENS) - len(SPECIALS)))
    writer.add_token_merges([" ".join(merge) for merge in MERGES])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(2)
    writer.add_chat_template(CHAT)


def _converted(model: nn.Module, architecture: str, scratch: Path, split_kv_b: bool) -> dict[str, Tensor]:
    """GGUF name -> tensor. The names come from the package, the changes of layout are llama.cpp's."""
    config = model.config
    kinds = {name: arch for arch, name in gguf.MODEL_ARCH_NAMES.items()}
    names = gguf.get_tensor_name_map(kinds[architecture], config.num_hidden_layers)  # type: ignore[union-attr]
    stacks: dict[str, list[Tensor]] = {}
    found = {}

    def add(name: str, tensor: Tensor) -> None:
        gguf_name = names.get_name(name, try_suffixes=(".weight", ".bias"))
        assert gguf_name is not None, name
        found[gguf_name] = tensor.float()

    for name, tensor in sorted(tensors_of(model, scratch).items(), key=lambda item: _natural(item[0])):
        if architecture == "llama" and ".q_proj." in name:
            tensor = _permuted(tensor, config.num_attention_heads)  # type: ignore[union-attr, arg-type]
        if architecture == "llama" and ".k_proj." in name:
            tensor = _permuted(tensor, config.num_key_value_heads)  # type: ignore[union-attr, arg-type]
        if ".mlp.experts." in name:
            before, _, after = name.partition(".experts.")
            stacks.setdefault(f"{before}.experts.{after.split('.', 1)[1]}", []).append(tensor)
        elif "kv_b_proj" in name and split_kv_b:
            heads = tensor.view(config.num_attention_heads, -1, tensor.shape[-1])  # type: ignore[union-attr, operator]
            key, value = heads.split([config.qk_nope_head_dim, config.v_head_dim], dim=1)  # type: ignore[union-attr, list-item]
            add(name.replace("kv_b_proj", "k_b_proj"), key.transpose(1, 2).contiguous())
            add(name.replace("kv_b_proj", "v_b_proj"), value.contiguous())
        elif name.endswith("e_score_correction_bias"):
            add(name.replace("e_score_correction_bias", "e_score_correction.bias"), tensor)
        else:
            add(name, tensor)
    for name, parts in stacks.items():
        add(name, torch.stack(parts))
    return found


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in name.split(".")]


def _permuted(weights: Tensor, heads: int) -> Tensor:
    split = weights.reshape(heads, 2, weights.shape[0] // heads // 2, *weights.shape[1:])
    return split.swapaxes(1, 2).reshape(weights.shape).contiguous()


def _add_tensor(writer: gguf.GGUFWriter, name: str, tensor: np.ndarray, kind: str, decoded: bool) -> None:
    quantisation = gguf.GGMLQuantizationType[kind]
    block, _ = gguf.GGML_QUANT_SIZES[quantisation]
    if tensor.ndim == 1 or "ffn_gate_inp" in name or tensor.shape[-1] % block or kind == "F32":
        writer.add_tensor(name, np.ascontiguousarray(tensor))
        return
    raw = gguf.quants.quantize(tensor, quantisation)
    if decoded:
        writer.add_tensor(name, gguf.quants.dequantize(raw, quantisation))
    else:
        writer.add_tensor(name, raw, raw_dtype=quantisation)
