"""GGUF files written by the `gguf` package: parsing, layout, configuration, and what happens to broken ones."""

import struct
import sys
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch

from millet.errors import BadWeights, MilletError, UnsupportedModel
from millet.models.config import ModelConfig
from millet.models.gguf import GGUFFile, GGUFWeights
from millet.models.gguf_config import config_from_gguf
from millet.models.network import Network
from millet.models.weights import agreed, fill, unfilled
from tests.models.files import CASES, TOKENS, YARN, tensors_of, toy, write_gguf
from tests.models.toy import draw_sequences, largest_difference, packed_logits, peer_logits


def network_of(path: Path) -> Network:
    file = GGUFFile(path)
    config, weights = ModelConfig.from_hf(config_from_gguf(file)), GGUFWeights(file)
    network = unfilled(agreed(config, weights))
    fill(network, weights, torch.float32, "cpu")
    return network.eval()


@pytest.mark.parametrize("case", CASES)
def test_weights_and_logits_are_those_of_the_model_it_came_from(case: str, tmp_path: Path, seed: int) -> None:
    model = toy(case, seed)
    network = network_of(write_gguf(model, tmp_path / "toy.gguf"))
    original = tensors_of(model, tmp_path / "original")
    found = dict(network.named_parameters())
    assert found.keys() == original.keys() - ({"lm_head.weight"} if "tied" in case else set())
    for name, parameter in found.items():
        assert torch.equal(parameter, original[name]), name
    sequences = draw_sequences(network, [9, 1, 23], seed)
    assert largest_difference(packed_logits(network, sequences), peer_logits(model, sequences)) < 1e-4


@pytest.mark.parametrize("case", ["deepseek_v2", "deepseek_v3"])
def test_deepseek_from_before_kv_b_was_split(case: str, tmp_path: Path, seed: int) -> None:
    model = toy(case, seed)
    network = network_of(write_gguf(model, tmp_path / "toy.gguf", split_kv_b=False))
    original = tensors_of(model, tmp_path / "original")
    for name, parameter in network.named_parameters():
        assert torch.equal(parameter, original[name]), name


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"])
@pytest.mark.parametrize("case", ["llama", "deepseek_v3"])
def test_quantised_files_have_the_weights_that_the_package_decodes(
    case: str, kind: str, tmp_path: Path, seed: int
) -> None:
    sizes = {"hidden_size": 64, "intermediate_size": 96}
    if case == "deepseek_v3":
        sizes |= {"moe_intermediate_size": 32, "kv_lora_rank": 32, "q_lora_rank": 32, "qk_nope_head_dim": 32}
    model = toy(case, seed, **sizes)
    path = write_gguf(model, tmp_path / "toy.gguf", kind)
    kinds = [tensor.kind for tensor in GGUFFile(path).tensors.values()]
    assert kinds.count(kind) > len(kinds) / 2
    expected = dict(network_of(write_gguf(model, tmp_path / "plain.gguf", kind, decoded=True)).named_parameters())
    for name, parameter in network_of(path).named_parameters():
        assert torch.equal(parameter, expected[name]), name


@pytest.mark.parametrize("case", ["llama", "qwen2", "qwen3", "deepseek_v2", "deepseek_v3"])
def test_the_configuration_comes_back(case: str, tmp_path: Path, seed: int) -> None:
    rope = YARN | ({"mscale": 0.707, "mscale_all_dim": 0.707} if case.startswith("deepseek") else {})
    model = toy(case, seed, rope_parameters=rope, rms_norm_eps=1e-5, max_position_embeddings=256)
    file = GGUFFile(write_gguf(model, tmp_path / "toy.gguf"))
    expected = ModelConfig.from_hf(model.config.to_dict())  # type: ignore[union-attr, operator]
    assert ModelConfig.from_hf(config_from_gguf(file)) == expected


@pytest.mark.parametrize("factor", [8.0, 32.0])
def test_llama3_scaling_is_found_from_the_frequencies(factor: float, tmp_path: Path, seed: int) -> None:
    rope = {"rope_type": "llama3", "rope_theta": 500000.0, "factor": factor, "low_freq_factor": 1.0}
    rope |= {"high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
    model = toy("llama", seed, head_dim=64, rope_parameters=rope, max_position_embeddings=131072)
    path = write_gguf(model, tmp_path / "toy.gguf", tensors={"rope_freqs.weight": _llama3_divisors(factor)})
    config = ModelConfig.from_hf(config_from_gguf(GGUFFile(path)))
    assert config == ModelConfig.from_hf(model.config.to_dict())  # type: ignore[union-attr, operator]
    network = network_of(path)
    sequences = draw_sequences(network, [50], seed)
    assert largest_difference(packed_logits(network, sequences), peer_logits(model, sequences)) < 1e-4


def _llama3_divisors(factor: float, context: int = 8192, head_dim: int = 64, theta: float = 500000.0) -> torch.Tensor:
    """As llama.cpp's converter writes them, pair by pair."""
    divisors = []
    for i in range(0, head_dim, 2):
        wavelength = 2 * np.pi * theta ** (i / head_dim)
        keep = min(max((context / wavelength - 1.0) / (4.0 - 1.0), 0.0), 1.0)
        divisors.append(1 / ((1 - keep) / factor + keep))
    return torch.tensor(divisors, dtype=torch.float32)


def test_frequencies_that_are_not_llama3s_are_refused(tmp_path: Path, seed: int) -> None:
    odd = {"rope_freqs.weight": _llama3_divisors(8.0, context=1024)}
    path = write_gguf(toy("llama", seed, head_dim=64), tmp_path / "toy.gguf", tensors=odd)
    with pytest.raises(UnsupportedModel, match="rotary"):
        config_from_gguf(GGUFFile(path))


def test_metadata_of_every_type(tmp_path: Path) -> None:
    path = tmp_path / "toy.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    values: dict[str, Any] = {
        "uint8": 200,
        "int8": -100,
        "uint16": 60000,
        "int16": -30000,
        "uint32": 4_000_000_000,
        "int32": -2_000_000_000,
        "float32": 0.5,
        "uint64": 2**63 + 1,
        "int64": -(2**62),
        "float64": 0.1,
        "bool": True,
        "string": "naïve 漢字 <|im_end|>\n",
        "array": [1, -2, 3],
    }
    for kind, value in values.items():
        getattr(writer, f"add_{kind}")(f"test.{kind}", value)
    writer.add_array("test.strings", ["", "a", "é" * 300])
    writer.add_array("test.floats", [0.5, -1.5])
    writer.add_array("test.nested", [[1, 2], [3]])
    writer.add_tensor("odd", np.arange(6, dtype=np.float32).reshape(2, 3))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    file = GGUFFile(path)
    assert {key: file.metadata[f"test.{key}"] for key in values} == values
    assert file.metadata["test.strings"] == ["", "a", "é" * 300]
    assert file.metadata["test.floats"] == [0.5, -1.5]
    assert file.metadata["test.nested"] == [[1, 2], [3]]
    assert file.metadata["general.architecture"] == "llama"
    tensor = file.tensors["odd"]
    assert (tensor.shape, tensor.kind) == ((2, 3), "F32")
    start = gguf.GGUFReader(path).tensors[0].data_offset
    assert tensor.start == start


def test_parses_as_the_package_does(tmp_path: Path, seed: int) -> None:
    path = write_gguf(toy("deepseek_v3", seed), tmp_path / "toy.gguf")
    file, reader = GGUFFile(path), gguf.GGUFReader(path)
    for key, field in reader.fields.items():
        if not key.startswith("GGUF."):
            assert file.metadata[key] == field.contents(), key
    assert file.metadata["tokenizer.ggml.tokens"] == TOKENS
    assert list(file.tensors) == [tensor.name for tensor in reader.tensors]
    for tensor in reader.tensors:
        found = file.tensors[tensor.name]
        assert (found.start, found.kind) == (tensor.data_offset, tensor.tensor_type.name)
        assert found.shape == tuple(int(n) for n in reversed(tensor.shape))


def test_version_2_and_a_wider_alignment(tmp_path: Path, seed: int) -> None:
    model = toy("qwen3", seed)
    plain = network_of(write_gguf(model, tmp_path / "toy.gguf"))
    path = write_gguf(model, tmp_path / "wide.gguf", extra={"general.alignment": 256})
    content = bytearray(path.read_bytes())
    content[4:8] = struct.pack("<I", 2)
    path.write_bytes(content)
    for (name, a), b in zip(plain.named_parameters(), network_of(path).parameters(), strict=True):
        assert torch.equal(a, b), name


def test_a_file_cut_short_anywhere_is_named_in_one_line(tmp_path: Path, seed: int) -> None:
    path = write_gguf(toy("qwen3-tied", seed), tmp_path / "toy.gguf")
    content = path.read_bytes()
    rng = np.random.default_rng(seed)
    cuts = [0, 1, 3, 4, 7, 8, 23, 24, *rng.integers(24, len(content), 150).tolist(), len(content) - 1]
    for cut in cuts:
        path.write_bytes(content[:cut])
        with pytest.raises(BadWeights) as error:
            GGUFFile(path)
        assert str(path) in str(error.value)
        assert "again" in str(error.value)
        assert "\n" not in str(error.value)


def test_random_damage_to_the_header_never_escapes_as_another_error(tmp_path: Path, seed: int) -> None:
    path = write_gguf(toy("qwen3-tied", seed), tmp_path / "toy.gguf")
    content = path.read_bytes()
    header = min(tensor.start for tensor in GGUFFile(path).tensors.values())
    rng = np.random.default_rng(seed)
    refusals = []
    for _ in range(300):
        damaged = bytearray(content)
        for position in rng.integers(0, header, 3):
            damaged[position] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            network_of(path)
        except MilletError as error:
            refusals.append(str(error))
    assert refusals
    assert all(len(line.splitlines()) == 1 for line in refusals)


def test_lengths_as_large_as_64_bits_are_refused_at_once(tmp_path: Path) -> None:
    path = tmp_path / "toy.gguf"
    key = struct.pack("<Q", 3) + b"key"
    huge = struct.pack("<Q", 2**64 - 1)
    bodies = [
        struct.pack("<QQ", 2**64 - 1, 2**64 - 1),
        struct.pack("<QQ", 0, 1) + huge,
        struct.pack("<QQ", 0, 1) + key + struct.pack("<I", 8) + huge,
        struct.pack("<QQ", 0, 1) + key + struct.pack("<II", 9, 4) + huge,
        struct.pack("<QQ", 0, 1) + key + struct.pack("<II", 9, 8) + huge,
        struct.pack("<QQ", 1, 0) + key + struct.pack("<I", 2**32 - 1) + huge,
        struct.pack("<QQ", 1, 0) + key + struct.pack("<IQQIQ", 2, 2**62, 2**62, 0, 0),
        struct.pack("<QQ", 1, 0) + key + struct.pack("<IQIQ", 1, 4, 0, 2**63),
    ]
    for body in bodies:
        path.write_bytes(b"GGUF" + struct.pack("<I", 3) + body)
        with pytest.raises(BadWeights, match="cut short or corrupt"):
            GGUFFile(path)


def test_arrays_nested_without_end_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "toy.gguf"
    nest = struct.pack("<IQ", 9, 1) * 100_000
    head = b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 3) + b"key" + struct.pack("<I", 9)
    path.write_bytes(head + nest)
    with pytest.raises(BadWeights, match="cut short or corrupt"):
        GGUFFile(path)


@pytest.mark.parametrize("kind", ["Q2_K", "Q3_K", "IQ4_XS", "IQ2_XXS", "I32"])
def test_types_that_are_not_supported_are_named(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "toy.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    quantisation = gguf.GGMLQuantizationType[kind]
    _, size = gguf.GGML_QUANT_SIZES[quantisation]
    if kind == "I32":
        writer.add_tensor("token_embd.weight", np.zeros((4, 256), dtype=np.int32))
    else:
        writer.add_tensor("token_embd.weight", np.zeros((4, size), dtype=np.uint8), raw_dtype=quantisation)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(UnsupportedModel, match=rf"type {kind}.*Q4_K"):
        GGUFWeights(GGUFFile(path))


def test_the_vocabulary_is_let_go_of_before_the_weights_come(tmp_path: Path, seed: int) -> None:
    """Some 10 MB of small strings for 50,000 tokens, which the tokenizer holds in a form of its own."""
    file = GGUFFile(write_gguf(toy("llama", seed), tmp_path / "toy.gguf"))
    weights, metadata = GGUFWeights(file), file.metadata
    del file
    assert sys.getrefcount(metadata) == 2  # `metadata`, and the argument
    name, shape = next(iter(weights.shapes.items()))
    weights.read(name, torch.empty(shape))


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ({"general.architecture": "gpt2"}, "architecture 'gpt2'.*llama, qwen2, qwen3, deepseek2"),
        ({"split.count": 3}, "one part of a split model"),
        ({"qwen3.expert_count": 8}, "mixture of experts"),
        ({"qwen3.rope.scaling.type": "longrope"}, "longrope"),
    ],
)
def test_models_that_are_not_supported_say_so(
    extra: dict[str, str | int], words: str, tmp_path: Path, seed: int
) -> None:
    path = write_gguf(toy("qwen3", seed), tmp_path / "toy.gguf", extra=extra)
    with pytest.raises(UnsupportedModel, match=words):
        ModelConfig.from_hf(config_from_gguf(GGUFFile(path)))


def test_a_big_endian_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "toy.gguf"
    path.write_bytes(b"GGUF" + struct.pack(">IQQ", 3, 0, 0))
    with pytest.raises(UnsupportedModel, match="little endian"):
        GGUFFile(path)


def test_missing_settings_are_named(tmp_path: Path) -> None:
    path = tmp_path / "toy.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_tensor("token_embd.weight", np.zeros((4, 32), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(BadWeights, match=r"no llama\.embedding_length"):
        config_from_gguf(GGUFFile(path))


def test_halves_of_kv_b_that_do_not_fit_together(tmp_path: Path, seed: int) -> None:
    odd = {"blk.0.attn_v_b.weight": torch.zeros(4, 6, 5)}
    file = GGUFFile(write_gguf(toy("deepseek_v3", seed), tmp_path / "toy.gguf", tensors=odd))
    with pytest.raises(BadWeights, match="attn_v_b"):
        GGUFWeights(file)


def test_a_tensor_without_a_place_is_named(tmp_path: Path, seed: int) -> None:
    odd = {"blk.0.attn_sinks.weight": torch.zeros(4)}
    path = write_gguf(toy("llama", seed), tmp_path / "toy.gguf", tensors=odd)
    with pytest.raises(BadWeights, match=r"blk\.0\.attn_sinks\.weight"):
        network_of(path)
