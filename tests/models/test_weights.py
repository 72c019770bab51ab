"""Filling a network from weights: completeness, types, sharing, and memory."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from millet.errors import BadWeights
from millet.models.config import ModelConfig
from millet.models.weights import agreed, fill, unfilled
from tests.models.files import CASES, VOCAB

MTP = {"num_nextn_predict_layers": 2}


class FakeWeights:
    """Every tensor of a network in memory, each value different."""

    source = "the fake"

    def __init__(self, config: ModelConfig) -> None:
        start = 0.0
        self.tensors: dict[str, Tensor] = {}
        for name, parameter in unfilled(config).named_parameters():
            self.tensors[name] = (start + torch.arange(parameter.numel(), dtype=torch.float64)).view(
                parameter.shape
            ) / 1e6
            start += parameter.numel()
        self.shapes = {name: tuple(tensor.shape) for name, tensor in self.tensors.items()}

    def read(self, name: str, out: Tensor) -> None:
        out.copy_(self.tensors[name])

    def close(self) -> None:
        pass


def config_of(case: str, **settings: object) -> ModelConfig:
    architecture, base = CASES[case]
    return ModelConfig.from_hf({"model_type": architecture, **base, **VOCAB, **settings})


@pytest.mark.parametrize("case", CASES)
def test_every_parameter_gets_its_values(case: str) -> None:
    config = config_of(case)
    weights, network = FakeWeights(config), unfilled(config)
    fill(network, weights, torch.float32, "cpu")
    for name, parameter in network.named_parameters():
        assert torch.equal(parameter, weights.tensors[name].float()), name
        assert parameter.requires_grad != name.endswith("correction_bias"), name


def test_all_is_in_the_type_asked_for_but_the_correction_bias() -> None:
    network = unfilled(config_of("deepseek_v3"))
    fill(network, FakeWeights(network.config), torch.bfloat16, "cpu")
    kinds = {name: parameter.dtype for name, parameter in network.named_parameters()}
    exact = {name for name, dtype in kinds.items() if dtype == torch.float32}
    assert exact == {name for name in kinds if name.endswith("e_score_correction_bias")} != set()
    assert set(kinds.values()) == {torch.float32, torch.bfloat16}


def test_mtp_modules_share_embedding_and_head_with_the_model() -> None:
    config = config_of("deepseek_v3", **MTP)
    network = unfilled(config)
    fill(network, FakeWeights(config), torch.float32, "cpu")
    for module in network.mtp:
        assert module.embed_tokens.weight is network.model.embed_tokens.weight
        assert module.shared_head.head.weight is network.lm_head.weight


def test_the_copies_that_mtp_modules_have_on_disk_may_be_there() -> None:
    config = config_of("deepseek_v3", **MTP)
    weights = FakeWeights(config)
    for layer in (3, 4):
        weights.shapes[f"model.layers.{layer}.embed_tokens.weight"] = weights.shapes["model.embed_tokens.weight"]
        weights.shapes[f"model.layers.{layer}.shared_head.head.weight"] = weights.shapes["lm_head.weight"]
    fill(unfilled(config), weights, torch.float32, "cpu")


def test_mtp_modules_without_weights_are_left_out() -> None:
    weights = FakeWeights(config_of("deepseek_v3"))
    config = agreed(config_of("deepseek_v3", **MTP), weights)
    assert config.mtp_layers == ModelConfig.from_hf(config.hf).mtp_layers == 0
    fill(unfilled(config), weights, torch.float32, "cpu")
    whole = config_of("deepseek_v3", **MTP)
    assert agreed(whole, FakeWeights(whole)) is whole


def test_mtp_modules_that_the_configuration_does_not_know_are_ignored() -> None:
    weights = FakeWeights(config_of("deepseek_v3", **MTP))
    fill(unfilled(config_of("deepseek_v3")), weights, torch.float32, "cpu")


def test_old_buffers_and_a_tied_head_may_be_there() -> None:
    config = config_of("llama-tied")
    weights = FakeWeights(config)
    weights.shapes |= {"model.layers.0.self_attn.rotary_emb.inv_freq": (8,), "lm_head.weight": (288, 32)}
    fill(unfilled(config), weights, torch.float32, "cpu")


def _lose(weights: FakeWeights) -> None:
    del weights.shapes["model.layers.1.mlp.up_proj.weight"]
    del weights.shapes["model.norm.weight"]


def _gain(weights: FakeWeights) -> None:
    weights.shapes |= {"model.layers.0.self_attn.sinks": (4,), "model.layers.0.self_attn.more": (4,)}


def _grow(weights: FakeWeights) -> None:
    weights.shapes["model.embed_tokens.weight"] = (289, 32)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_lose, r"the fake lacks model\.layers\.1\.mlp\.up_proj\.weight and 1 more"),
        (_gain, r"does not know: model\.layers\.0\.self_attn\.sinks and 1 more"),
        (_grow, r"model\.embed_tokens\.weight in the fake is 289 x 32 but the configuration says 288 x 32"),
    ],
)
def test_weights_that_disagree_are_named(change: Callable[[FakeWeights], None], words: str) -> None:
    config = config_of("qwen2")
    weights = FakeWeights(config)
    change(weights)
    with pytest.raises(BadWeights, match=words) as error:
        fill(unfilled(config), weights, torch.float32, "cpu")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("settings", [{"num_hidden_layers": 10**9}, {"n_routed_experts": 10**9}])
def test_a_configuration_far_beyond_the_weights_is_refused_before_it_is_built(settings: dict[str, int]) -> None:
    weights = FakeWeights(config_of("deepseek_v3"))
    with pytest.raises(BadWeights, match="fewer than 1000000000"):
        agreed(config_of("deepseek_v3", **settings), weights)


def test_an_error_while_reading_comes_out_and_threads_are_as_before() -> None:
    config = config_of("llama")
    weights = FakeWeights(config)
    weights.tensors["model.norm.weight"] = torch.zeros(5)
    threads = torch.get_num_threads()
    with pytest.raises(RuntimeError):
        fill(unfilled(config), weights, torch.float32, "cpu")
    assert torch.get_num_threads() == threads


def test_an_unfilled_network_costs_no_compiler_and_no_memory() -> None:
    code = """
import sys
from millet.models.config import ModelConfig
from millet.models.weights import unfilled
hf = {"model_type": "llama", "vocab_size": 10**6, "hidden_size": 2**14, "intermediate_size": 2**16,
      "num_hidden_layers": 2, "num_attention_heads": 128, "max_position_embeddings": 1}
assert all(p.is_meta for p in unfilled(ModelConfig.from_hf(hf)).parameters())
assert "torch._dynamo" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_loading_holds_the_model_and_a_few_pieces_of_the_file(tmp_path: Path) -> None:
    """A 184 MB fp32 file into a 92 MB bf16 network: what is mapped or decoded on the way does not pile up.

    A small model is loaded first: PyTorch's own code, of which the system maps as much as it likes when it is first
    run, is no part of the question.
    """
    code = f"""
import json, torch
from pathlib import Path
from millet.models.checkpoint import SafetensorsWeights
from millet.models.config import ModelConfig
from millet.models.weights import fill, unfilled

torch.set_num_threads(2)

def load(directory, width):
    hf = {{"model_type": "llama", "vocab_size": 2**14, "hidden_size": width, "intermediate_size": width,
          "num_hidden_layers": 2, "num_attention_heads": 8, "max_position_embeddings": 1}}
    network = unfilled(ModelConfig.from_hf(hf))
    header, position = {{}}, 0
    for name, p in network.named_parameters():
        header[name] = {{"dtype": "F32", "shape": list(p.shape), "data_offsets": [position, position + 4 * p.numel()]}}
        position += 4 * p.numel()
    text = json.dumps(header).encode()
    directory.mkdir()
    with open(directory / "model.safetensors", "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + position)
    weights = SafetensorsWeights(directory)
    before = memory("VmRSS")
    fill(network, weights, torch.bfloat16, "cpu")
    return position / 2**21, memory("VmHWM") - before

def memory(key):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(key)) / 1024

load(Path({str(tmp_path)!r}) / "small", 64)
print(*load(Path({str(tmp_path)!r}) / "large", 1024))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2], capture_output=True, text=True
    )
    model, grown = map(float, done.stdout.split())
    assert model > 90
    assert grown < model + 60  # a matrix decoded whole is 64 MB more, the mapped file 184
