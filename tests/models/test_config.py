"""config.json in both spellings, what it implies, and what is refused."""

from pathlib import Path

import pytest
import torch

from millet.errors import BadWeights, UnsupportedModel
from millet.models.config import CacheSpec, ModelConfig
from millet.models.network import build
from tests.models.toy import DEEPSEEK, DENSE, V3, network_of, peer

SMOLLM2 = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 49152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-5,
    "rope_theta": 100000,
    "rope_scaling": None,
    "tie_word_embeddings": True,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
R1 = {
    "model_type": "deepseek_v3",
    "vocab_size": 129280,
    "hidden_size": 7168,
    "intermediate_size": 18432,
    "moe_intermediate_size": 2048,
    "num_hidden_layers": 61,
    "num_nextn_predict_layers": 1,
    "num_attention_heads": 128,
    "num_key_value_heads": 128,
    "n_shared_experts": 1,
    "n_routed_experts": 256,
    "routed_scaling_factor": 2.5,
    "kv_lora_rank": 512,
    "q_lora_rank": 1536,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "qk_nope_head_dim": 128,
    "topk_method": "noaux_tc",
    "n_group": 8,
    "topk_group": 4,
    "num_experts_per_tok": 8,
    "moe_layer_freq": 1,
    "first_k_dense_replace": 3,
    "norm_topk_prob": True,
    "scoring_func": "sigmoid",
    "hidden_act": "silu",
    "max_position_embeddings": 163840,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
    "rope_theta": 10000,
    "rope_scaling": {
        "type": "yarn",
        "factor": 40,
        "original_max_position_embeddings": 4096,
        "beta_fast": 32,
        "beta_slow": 1,
        "mscale": 1.0,
        "mscale_all_dim": 1.0,
    },
    "bos_token_id": 0,
    "eos_token_id": 1,
}


def test_smollm2() -> None:
    config = ModelConfig.from_hf(SMOLLM2)
    assert config.head_dim == 64
    assert (config.rope.theta, config.rope.type, config.rope.width) == (100000.0, "default", 64)
    assert config.cache == CacheSpec(layers=30, kv_heads=3, key_width=64, value_width=64, value_in_key=False)
    assert config.num_parameters == 134_515_008
    assert (config.bos_token_id, config.eos_token_ids) == (1, (2,))
    assert config.hf == SMOLLM2


def test_r1() -> None:
    config = ModelConfig.from_hf(R1)
    assert config.cache == CacheSpec(layers=62, kv_heads=1, key_width=576, value_width=512, value_in_key=True)
    assert config.head_dim == 192
    assert config.moe is not None
    assert (config.moe.num_groups, config.moe.top_groups, config.moe.scoring) == (8, 4, "sigmoid")
    assert config.rope.interleaved
    assert config.rope.original_context == 4096
    main = ModelConfig.from_hf(R1 | {"num_nextn_predict_layers": 0}).num_parameters
    assert round(main / 1e9) == 671
    assert round((config.num_parameters - main) / 1e9, 1) == 11.6


def test_both_spellings_of_rope_say_the_same() -> None:
    rope = {"rope_theta": R1["rope_theta"], **R1["rope_scaling"]}
    rope["rope_type"] = rope.pop("type")
    new = {key: value for key, value in R1.items() if key not in ("rope_theta", "rope_scaling")}
    assert ModelConfig.from_hf(new | {"rope_parameters": rope}) == ModelConfig.from_hf(R1)


def test_several_end_tokens_and_none() -> None:
    assert ModelConfig.from_hf(SMOLLM2 | {"eos_token_id": [7, 9]}).eos_token_ids == (7, 9)
    assert ModelConfig.from_hf(SMOLLM2 | {"eos_token_id": None}).eos_token_ids == ()


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("llama", DENSE | {"attention_bias": True, "mlp_bias": True}),
        ("qwen2", DENSE | {"tie_word_embeddings": True}),
        ("qwen3", DENSE | {"attention_bias": True}),
        ("deepseek_v2", DEEPSEEK | {"q_lora_rank": None, "attention_bias": True}),
        ("deepseek_v3", V3 | {"attention_bias": True}),
    ],
)
def test_the_network_has_the_parameters_the_configuration_says(
    kind: str, settings: dict, seed: int, tmp_path: Path
) -> None:
    """`network_of` is strict, so the names are transformers' too."""
    network = network_of(peer(kind, settings, seed), tmp_path)
    assert sum(p.numel() for p in network.parameters()) == network.config.num_parameters


def test_parameters_of_mtp_modules_are_counted_without_what_they_share() -> None:
    config = ModelConfig.from_hf(V3 | {"model_type": "deepseek_v3", "num_nextn_predict_layers": 2})
    with torch.device("meta"):
        assert sum(p.numel() for p in build(config).parameters()) == config.num_parameters


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"model_type": "mamba"}, "'mamba' is not supported; Millet runs models of type llama, qwen2"),
        ({"model_type": None}, "None is not supported"),
        ({"hidden_act": "gelu"}, "gelu"),
        ({"use_sliding_window": True}, "sliding-window"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "RoPE type 'dynamic'.* default, linear, llama3, yarn"),
        ({"rope_parameters": {"rope_type": "longrope"}}, "longrope"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
    ],
)
def test_unsupported_is_refused_by_name(change: dict, says: str) -> None:
    with pytest.raises(UnsupportedModel, match=says) as caught:
        ModelConfig.from_hf(SMOLLM2 | change)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "says"),
    [({"topk_method": "seer"}, "seer"), ({"scoring_func": "tanh"}, "tanh"), ({"moe_layer_freq": 2}, "moe_layer_freq")],
)
def test_unsupported_experts_are_refused_by_name(change: dict, says: str) -> None:
    with pytest.raises(UnsupportedModel, match=says):
        ModelConfig.from_hf(R1 | change)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"hidden_size": None}, "hidden_size"),
        ({"vocab_size": "many"}, "vocab_size 'many'"),
        ({"num_attention_heads": 0}, "num_attention_heads 0"),
        ({"num_key_value_heads": 2}, "9 attention heads for 2 key/value heads"),
        ({"rms_norm_eps": "small"}, "rms_norm_eps 'small'"),
        ({"rope_theta": "hot"}, "rope_theta 'hot'"),
    ],
)
def test_nonsense_is_refused_by_name(change: dict, says: str) -> None:
    with pytest.raises(BadWeights, match=says):
        ModelConfig.from_hf(SMOLLM2 | change)


@pytest.mark.parametrize(
    "key", ["vocab_size", "num_hidden_layers", "q_lora_rank", "kv_lora_rank", "num_experts_per_tok"]
)
def test_a_missing_key_is_named(key: str) -> None:
    with pytest.raises(BadWeights, match=f"config.json lacks {key}"):
        ModelConfig.from_hf({name: value for name, value in R1.items() if name != key})


def test_groups_that_cannot_be_are_refused() -> None:
    with pytest.raises(BadWeights, match="8 of 256 experts from 4 of 7 groups"):
        ModelConfig.from_hf(R1 | {"n_group": 7})
