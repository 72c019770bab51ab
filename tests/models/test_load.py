"""`millet.load`: names, places, types, what ends a reply, and what is refused."""

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
import transformers

import millet
from millet.errors import BadRequest, BadWeights, MilletError, OutOfMemory, UnknownModel, UnsupportedModel
from millet.kernels.cpu import Memory
from millet.models import load as module
from millet.models.catalog import catalog
from millet.models.load import load
from tests.models.files import CASES, CHAT, YARN, toy, write_directory, write_gguf
from tests.models.toy import draw_sequences, largest_difference, packed_logits, peer_logits


def edit(path: Path, **changes: Any) -> None:
    """Change a JSON file; None takes a key away."""
    content = (json.loads(path.read_text()) if path.exists() else {}) | changes
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


@pytest.fixture
def directory(tmp_path: Path, seed: int) -> Path:
    return write_directory(toy("llama", seed), tmp_path / "toy")


def test_a_directory(directory: Path, seed: int, way: str) -> None:
    model = load(directory)
    assert (model.name, model.path, model.device.type, model.dtype) == ("toy", directory, "cpu", torch.float32)
    assert model.tokenizer.encode("hello") == [model.tokenizer.id_of("hello")]
    assert model.template is not None
    assert "assistant" in model.template.render([{"role": "user", "content": "hello"}])
    assert not model.network.training
    sequences = draw_sequences(model.network, [9, 23], seed)
    peer = transformers.AutoModelForCausalLM.from_pretrained(directory, attn_implementation="eager")
    expected = peer_logits(peer, sequences)
    assert model.native == (way == "native")
    assert largest_difference(packed_logits(model.network, sequences), expected) < 1e-4
    assert largest_difference([model.logits(ids.tolist()) for ids in sequences], expected) < 1e-4


@pytest.mark.parametrize("case", CASES)
def test_what_came_from_gguf_is_saved_for_transformers(case: str, tmp_path: Path, seed: int, way: str) -> None:
    rope = YARN | ({"mscale": 0.707, "mscale_all_dim": 0.707} if case.startswith("deepseek") else {})
    original = toy(case, seed, rope_parameters=rope)
    model = load(write_gguf(original, tmp_path / "toy.gguf"))
    model.save(tmp_path / "out")
    peer, info = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "out", output_loading_info=True, attn_implementation="eager"
    )
    assert not any(info.values()), info
    sequences = draw_sequences(model.network, [9, 1, 100], seed)
    expected = peer_logits(original, sequences)
    assert model.native == (way == "native")
    assert largest_difference(packed_logits(model.network, sequences), expected) < 1e-4
    assert largest_difference([model.logits(ids.tolist()) for ids in sequences], expected) < 1e-4
    assert largest_difference(peer_logits(peer, sequences), expected) < 1e-4
    again = load(tmp_path / "out")
    assert again.eos_token_ids == model.eos_token_ids == (2,)
    assert again.template is not None
    assert again.template.source == CHAT


def test_a_directory_with_one_gguf_file(tmp_path: Path, seed: int) -> None:
    path = write_gguf(toy("qwen3", seed), tmp_path / "only.gguf")
    assert load(tmp_path).path == path
    (tmp_path / "another.gguf").write_bytes(path.read_bytes())
    with pytest.raises(UnknownModel, match=r"2 \.gguf files; name one"):
        load(tmp_path)


def test_a_name_is_located_or_pulled(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = next(iter(catalog()))
    here: list[Path] = []
    monkeypatch.setattr(module, "locate", lambda name: here[0] if here else None)
    monkeypatch.setattr(module, "pull", lambda name: directory)
    assert load(name).name == name
    assert load("hf:org/name").name == "toy"
    monkeypatch.delattr(module, "pull")
    here.append(directory)
    model = load(name)
    assert (model.name, model.path) == (name, directory)
    assert model.sampling_defaults == dict(catalog()[name].sampling)


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(UnknownModel, match="smolm2-135m"):
        load("smolm2-135m")
    with pytest.raises(UnknownModel, match=r"neither a config\.json nor a \.gguf file"):
        load(tmp_path)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_the_type_asked_for(dtype: str, directory: Path) -> None:
    model = load(directory, dtype=dtype)
    assert model.dtype == getattr(torch, dtype)
    assert {parameter.dtype for parameter in model.network.parameters()} == {model.dtype}


def test_types_and_devices_that_are_not() -> None:
    with pytest.raises(BadRequest, match="dtype 'int4' is unknown; use float32, bfloat16, float16"):
        load("smollm2-135m", dtype="int4")
    with pytest.raises(BadRequest, match="device 'tpu0' is unknown; use cpu or cuda"):
        load("smollm2-135m", device="tpu0")
    if not torch.cuda.is_available():
        with pytest.raises(BadRequest, match="sees no GPU"):
            load("smollm2-135m", device="cuda")


def test_weights_larger_than_memory_are_refused_before_any_is_taken(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "read_memory", lambda: Memory(10**6, 1000))
    monkeypatch.setattr(module, "fill", None)
    with pytest.raises(
        OutOfMemory, match=r"need 0\.\d GB \(based on float32\) and 0\.0 GB are free on cpu; close other programs"
    ):
        load(directory, dtype="float32")


def test_everything_that_ends_a_reply(directory: Path) -> None:
    assert load(directory).eos_token_ids == (2,)
    edit(directory / "generation_config.json", eos_token_id=[0, 2], temperature=0.7, top_k=20, do_sample=True)
    model = load(directory)
    assert model.eos_token_ids == (0, 2)
    assert model.sampling_defaults == {"temperature": 0.7, "top_k": 20}
    edit(directory / "generation_config.json", eos_token_id=5)
    edit(directory / "config.json", eos_token_id=[7])
    assert load(directory).eos_token_ids == (5, 7, 2)
    # A base model's configuration around a chat template: the end of a turn counts all the same.
    edit(directory / "generation_config.json", eos_token_id=None)
    edit(directory / "config.json", eos_token_id=0)
    edit(directory / "tokenizer_config.json", eos_token="<|endoftext|>")
    assert load(directory).eos_token_ids == (0, 2)


def test_where_the_template_may_be(directory: Path) -> None:
    edit(directory / "tokenizer_config.json", chat_template=[{"name": "rag", "template": "R"}])
    assert load(directory).template is None
    named = [{"name": "rag", "template": "R"}, {"name": "default", "template": "D"}]
    edit(directory / "tokenizer_config.json", chat_template=named)
    assert load(directory).template.source == "D"  # type: ignore[union-attr]
    (directory / "chat_template.jinja").write_text("J")
    assert load(directory).template.source == "J"  # type: ignore[union-attr]
    (directory / "chat_template.jinja").unlink()
    edit(directory / "tokenizer_config.json", chat_template=None)
    assert load(directory).template is None


def test_gguf_says_what_ends_a_reply_and_how_to_sample(tmp_path: Path, seed: int) -> None:
    extra: dict[str, str | int] = {"tokenizer.ggml.eot_token_id": 4, "tokenizer.ggml.eom_token_id": 2**32 - 1}
    extra["general.sampling.top_k"] = 20
    model = load(write_gguf(toy("llama", seed), tmp_path / "toy.gguf", extra=extra))
    assert model.eos_token_ids == (2, 4)
    assert model.sampling_defaults == {"top_k": 20}


@pytest.mark.parametrize(
    ("file", "content", "error", "words"),
    [
        ("config.json", "{", BadWeights, "config.json cannot be read"),
        ("config.json", "[]", BadWeights, "not an object"),
        ("config.json", '{"model_type": "gpt2"}', UnsupportedModel, "'gpt2'"),
        ("tokenizer.json", "{}", BadWeights, "tokenizer.json"),
        ("model.safetensors", "", BadWeights, "is empty"),
    ],
)
def test_broken_files(file: str, content: str, error: type[MilletError], words: str, directory: Path) -> None:
    (directory / file).write_text(content)
    with pytest.raises(error, match=words) as caught:
        load(directory)
    assert "\n" not in str(caught.value)


def test_a_shape_that_disagrees_with_the_configuration(directory: Path) -> None:
    edit(directory / "config.json", intermediate_size=49)
    with pytest.raises(BadWeights, match="48 x 32 but the configuration says 49 x 32"):
        load(directory)


def test_other_quantisation_is_refused_by_name(directory: Path) -> None:
    edit(directory / "config.json", quantization_config={"quant_method": "gptq", "bits": 4})
    with pytest.raises(UnsupportedModel, match=r"gptq.*as GGUF"):
        load(directory)


def test_the_default_model(smollm2_path: Path) -> None:
    model = millet.load(smollm2_path)
    assert model.eos_token_ids == (2,)
    assert model.template is not None
    assert (model.config.num_layers, model.config.tie_word_embeddings, model.config.rms_norm_eps) == (30, True, 1e-5)
    model.network.unpack()
    parameters = dict(model.network.named_parameters())
    assert sum(parameter.numel() for parameter in parameters.values()) == model.config.num_parameters == 134_515_008
    names = {
        "token_embd.weight": "model.embed_tokens.weight",
        "blk.7.ffn_down.weight": "model.layers.7.mlp.down_proj.weight",
        "blk.29.attn_v.weight": "model.layers.29.self_attn.v_proj.weight",
        "blk.3.attn_k.weight": "model.layers.3.self_attn.k_proj.weight",
    }
    for tensor in gguf.GGUFReader(smollm2_path).tensors:
        if tensor.name in names:
            expected = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
            if "attn_k" in tensor.name:
                expected = expected.reshape(3, 32, 2, 576).swapaxes(1, 2).reshape(192, 576)
            np.testing.assert_array_equal(parameters[names[tensor.name]].detach().numpy(), expected)
    with torch.no_grad():
        logprobs = model.logprobs([model.tokenizer.encode("The capital of France is Paris")])[0]
    assert logprobs[-1].exp() > 0.5
