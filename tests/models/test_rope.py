"""Frequencies against transformers' formulas, rotations against complex numbers."""

import math

import pytest
import torch
from transformers import DeepseekV3Config, LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.deepseek_v3.modeling_deepseek_v3 import yarn_apply_mscale

from millet.models.config import ModelConfig, RopeConfig
from millet.models.rope import Rope, attention_factor, inverse_frequencies, softmax_factor

R1 = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 40,
    "original_max_position_embeddings": 4096,
    "beta_fast": 32,
    "beta_slow": 1,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
}
LLAMA_31 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
QWEN_YARN = {"rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0, "original_max_position_embeddings": 32768}
CASES = {
    "linear": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.5},
    "llama 3.1": LLAMA_31,
    "llama 3.2": LLAMA_31 | {"factor": 32.0},
    "qwen yarn": QWEN_YARN,
    "yarn, attention factor": QWEN_YARN | {"attention_factor": 1.3},
    "yarn, not truncated": QWEN_YARN | {"truncate": False},
    "r1": R1,
    "v2 lite": R1 | {"mscale": 0.707, "mscale_all_dim": 0.707},
    "unequal mscales": R1 | {"mscale": 1.0, "mscale_all_dim": 0.5},
    "no room for a ramp": R1 | {"original_max_position_embeddings": 8},
}


def both_configs(parameters: dict) -> tuple[RopeConfig, LlamaConfig]:
    peer = LlamaConfig(head_dim=64, max_position_embeddings=163840, rope_parameters=dict(parameters))
    return ModelConfig.from_hf(peer.to_dict()).rope, peer


@pytest.mark.parametrize("parameters", CASES.values(), ids=CASES)
def test_frequencies_and_factor_equal_those_of_transformers(parameters: dict) -> None:
    rope, peer = both_configs(parameters)
    inv_freq, factor = ROPE_INIT_FUNCTIONS[parameters["rope_type"]](peer)
    torch.testing.assert_close(inverse_frequencies(rope), inv_freq, rtol=1e-6, atol=0)
    assert attention_factor(rope) == pytest.approx(factor)


def test_default_frequencies() -> None:
    expected = torch.tensor([100.0 ** (-2 * i / 8) for i in range(4)])
    torch.testing.assert_close(inverse_frequencies(RopeConfig(width=8, theta=100.0)), expected)


@pytest.mark.parametrize("parameters", [R1, R1 | {"mscale_all_dim": 0.5}, R1 | {"mscale_all_dim": 0}, LLAMA_31])
def test_softmax_factor_equals_that_of_transformers(parameters: dict) -> None:
    peer = DeepseekV3Config(max_position_embeddings=163840, rope_parameters=dict(parameters))
    expected = yarn_apply_mscale(peer.rope_parameters, 1.0)
    assert softmax_factor(ModelConfig.from_hf(peer.to_dict()).rope) == pytest.approx(expected)


def test_softmax_factor_of_r1_is_what_the_design_says() -> None:
    rope, _ = both_configs(R1)
    assert softmax_factor(rope) == pytest.approx((0.1 * math.log(40) + 1) ** 2)


@pytest.mark.parametrize("interleaved", [False, True])
def test_rotation_is_a_complex_product(interleaved: bool, seed: int) -> None:
    torch.manual_seed(seed)
    config = RopeConfig(width=16, theta=50.0, type="yarn", factor=2.0, original_context=64, interleaved=interleaved)
    positions_T, x_THK = torch.randint(200, (5,)), torch.randn(5, 3, 16)
    first, second = (x_THK[..., 0::2], x_THK[..., 1::2]) if interleaved else x_THK.chunk(2, -1)
    angle_TP = positions_T[:, None] * inverse_frequencies(config)
    turned = torch.complex(first, second) * torch.polar(torch.tensor(attention_factor(config)), angle_TP)[:, None]
    found = Rope(config)(positions_T)(x_THK)
    first, second = (found[..., 0::2], found[..., 1::2]) if interleaved else found.chunk(2, -1)
    torch.testing.assert_close(torch.complex(first, second), turned)


def test_frequencies_are_real_numbers_when_built_on_the_meta_device() -> None:
    for parameters in CASES.values():
        rope, _ = both_configs(parameters)
        with torch.device("meta"):
            built = Rope(rope)
        assert torch.equal(built.inv_freq_P, inverse_frequencies(rope))


def test_a_rotated_head_keeps_its_type() -> None:
    rotation = Rope(RopeConfig(width=8))(torch.arange(3))
    assert rotation(torch.ones(3, 2, 8, dtype=torch.bfloat16)).dtype == torch.bfloat16
