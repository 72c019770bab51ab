"""Hugging Face directories: what transformers and safetensors write is read, what Millet writes transformers loads."""

import json
import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from millet.errors import BadWeights, MilletError, UnsupportedModel
from millet.models.chat_template import ChatTemplate
from millet.models.checkpoint import SafetensorsWeights, save
from millet.models.config import ModelConfig
from millet.models.model import Model
from millet.models.tokenizer import Tokenizer
from millet.models.weights import agreed, fill, unfilled
from tests.models.files import CASES, CHAT, toy, write_directory, write_tokenizer
from tests.models.toy import draw_sequences, largest_difference, packed_logits, peer_logits, randomise


def read(weights: SafetensorsWeights, name: str, dtype: torch.dtype = torch.float32) -> Tensor:
    out = torch.empty(weights.shapes[name], dtype=dtype)
    weights.read(name, out)
    return out


def model_of(directory: Path, dtype: torch.dtype = torch.float32, **changes: Any) -> Model:
    """What `load` makes of a directory, in few words."""
    config = ModelConfig.from_hf(json.loads((directory / "config.json").read_text()))
    weights = SafetensorsWeights(directory)
    network = unfilled(agreed(config, weights))
    fill(network, weights, dtype, "cpu")
    settings = json.loads((directory / "tokenizer_config.json").read_text())
    tokenizer = Tokenizer.from_file(directory / "tokenizer.json", settings)
    fields = {
        "template": ChatTemplate(CHAT, tokenizer.special_tokens),
        "sampling_defaults": {"temperature": 0.6, "top_p": 0.95},
        "eos_token_ids": (2, 0),
    }
    return Model("toy", directory, network.config, network.eval(), tokenizer, dtype=dtype, **{**fields, **changes})


def reloaded(directory: Path) -> tuple[nn.Module, dict[str, Any]]:
    return transformers.AutoModelForCausalLM.from_pretrained(
        directory, output_loading_info=True, attn_implementation="eager"
    )


# --- reading


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("out", [torch.float32, torch.bfloat16])
def test_every_float_type_is_read_into_every_other(
    dtype: torch.dtype, out: torch.dtype, tmp_path: Path, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    tensors = {"a": torch.randn(3, generator=generator), "b": torch.randn(700, 999, generator=generator)}
    tensors = {name: tensor.to(dtype) for name, tensor in tensors.items()}
    save_file(tensors, tmp_path / "model.safetensors")
    weights = SafetensorsWeights(tmp_path)
    assert weights.shapes == {"a": (3,), "b": (700, 999)}
    for name, tensor in tensors.items():
        assert torch.equal(read(weights, name, out), tensor.to(out))


def test_a_header_of_any_length(tmp_path: Path) -> None:
    """Files whose data begin at an odd byte are legal."""
    header = json.dumps({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
    header += b" " * ((len(header) + 1) % 2)
    data = torch.tensor([1.5, -2.0]).numpy().tobytes()
    (tmp_path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + data)
    assert len(header) % 2 == 1
    assert read(SafetensorsWeights(tmp_path), "a").tolist() == [1.5, -2.0]


def test_shards_are_read_through_their_index(tmp_path: Path, seed: int) -> None:
    model = toy("qwen3", seed)
    write_directory(model, tmp_path / "one")
    write_directory(model, tmp_path / "many", max_shard_size="20KB")
    assert len(list((tmp_path / "many").glob("*.safetensors"))) > 3
    one, many = SafetensorsWeights(tmp_path / "one"), SafetensorsWeights(tmp_path / "many")
    assert one.shapes == many.shapes
    for name in one.shapes:
        assert torch.equal(read(one, name), read(many, name))


@pytest.mark.parametrize("shape", [(200, 300), (128, 128), (1, 7), (1000, 384)])
@pytest.mark.parametrize("block", [(128, 128), (32, 64)])
def test_fp8_with_block_scales(shape: tuple[int, int], block: tuple[int, int], tmp_path: Path, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    rows, columns = -(-shape[0] // block[0]), -(-shape[1] // block[1])
    weight = torch.randn(shape, generator=generator).to(torch.float8_e4m3fn)
    scale = torch.rand(rows, columns, generator=generator) + 0.1
    plain = torch.randn(5, generator=generator).bfloat16()
    tensors = {"x.weight": weight, "x.weight_scale_inv": scale, "norm.weight": plain}
    save_file(tensors, tmp_path / "model.safetensors")
    weights = SafetensorsWeights(tmp_path, block)
    assert weights.shapes == {"x.weight": shape, "norm.weight": (5,)}
    spread = scale.repeat_interleave(block[0], 0).repeat_interleave(block[1], 1)[: shape[0], : shape[1]]
    assert torch.equal(read(weights, "x.weight"), weight.float() * spread)
    assert torch.equal(read(weights, "x.weight", torch.bfloat16), (weight.float() * spread).bfloat16())
    assert torch.equal(read(weights, "norm.weight"), plain.float())


def test_fp8_whose_scales_do_not_fit(tmp_path: Path) -> None:
    weight = torch.ones(200, 300).to(torch.float8_e4m3fn)
    for scale in ({}, {"x.weight_scale_inv": torch.ones(1, 3)}):
        save_file({"x.weight": weight, **scale}, tmp_path / "model.safetensors")
        with pytest.raises(BadWeights, match=r"x\.weight in .*weight_scale_inv.*128 x 128"):
            read(SafetensorsWeights(tmp_path), "x.weight")


def test_a_deepseek_checkpoint_in_fp8_gives_the_logits_of_its_dequantised_weights(tmp_path: Path, seed: int) -> None:
    model = toy("deepseek_v3", seed, hidden_size=160, intermediate_size=200)
    write_directory(model, tmp_path)
    generator = torch.Generator().manual_seed(seed)
    stored, plain = {}, {}
    for name, tensor in load_file(tmp_path / "model.safetensors").items():
        if tensor.dim() == 2 and "_proj" in name:
            scale = torch.rand(-(-tensor.shape[0] // 128), -(-tensor.shape[1] // 128), generator=generator) + 0.5
            spread = scale.repeat_interleave(128, 0).repeat_interleave(128, 1)[: tensor.shape[0], : tensor.shape[1]]
            stored[name] = (tensor / spread).to(torch.float8_e4m3fn)
            stored[name + "_scale_inv"] = scale
            plain[name] = stored[name].float() * spread
        else:
            stored[name] = plain[name] = tensor
    save_file(plain, tmp_path / "model.safetensors", {"format": "pt"})
    peer, _ = reloaded(tmp_path)
    save_file(stored, tmp_path / "model.safetensors", {"format": "pt"})
    network = model_of(tmp_path).network
    sequences = draw_sequences(network, [9, 17], seed)
    assert largest_difference(packed_logits(network, sequences), peer_logits(peer, sequences)) < 1e-4


# --- what is wrong with a directory


def _truncate(directory: Path) -> None:
    path = next(directory.glob("model-00002*"))
    path.write_bytes(path.read_bytes()[:-1])


def _truncate_header(directory: Path) -> None:
    path = next(directory.glob("model-00002*"))
    path.write_bytes(path.read_bytes()[:40])


def _empty(directory: Path) -> None:
    next(directory.glob("model-00002*")).write_bytes(b"")


def _garbage_header(directory: Path) -> None:
    path = next(directory.glob("model-00002*"))
    path.write_bytes(path.read_bytes().replace(b'"dtype"', b'"dtyqe"', 1))


def _lose_shard(directory: Path) -> None:
    next(directory.glob("model-00002*")).unlink()


def _corrupt_index(directory: Path) -> None:
    (directory / "model.safetensors.index.json").write_text('{"weight_map": {')


def _listless_index(directory: Path) -> None:
    (directory / "model.safetensors.index.json").write_text('{"weight_map": ["a"]}')


def _nothing(directory: Path) -> None:
    for path in directory.glob("model*"):
        path.unlink()


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (_truncate, "model-00002.*cut short or corrupt"),
        (_truncate_header, "model-00002.*cut short or corrupt"),
        (_empty, "model-00002.*is empty"),
        (_garbage_header, "model-00002.*cut short or corrupt"),
        (_lose_shard, "lacks model-00002.*which its index names"),
        (_corrupt_index, "index.json cannot be read"),
        (_listless_index, "index.json cannot be read"),
        (_nothing, r"has no model\.safetensors"),
    ],
)
def test_damaged_directories_are_named_in_one_line(
    damage: Callable[[Path], None], words: str, tmp_path: Path, seed: int
) -> None:
    write_directory(toy("llama", seed), tmp_path, max_shard_size="20KB")
    damage(tmp_path)
    with pytest.raises(BadWeights, match=words) as error:
        SafetensorsWeights(tmp_path)
    assert "\n" not in str(error.value)


def test_pickled_weights_are_refused_with_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model-00001-of-00002.bin").write_bytes(b"x")
    with pytest.raises(UnsupportedModel, match="save it as safetensors"):
        SafetensorsWeights(tmp_path)


def test_other_types_are_refused_by_name(tmp_path: Path) -> None:
    save_file({"x.qweight": torch.zeros(4, dtype=torch.int32)}, tmp_path / "model.safetensors")
    with pytest.raises(UnsupportedModel, match=r"x\.qweight.*I32.*F8_E4M3"):
        SafetensorsWeights(tmp_path)


def test_an_index_cannot_name_files_outside_its_directory(tmp_path: Path) -> None:
    save_file({"x": torch.zeros(1)}, tmp_path / "outside.safetensors")
    inside = tmp_path / "model"
    inside.mkdir()
    (inside / "model.safetensors.index.json").write_text('{"weight_map": {"x": "../outside.safetensors"}}')
    with pytest.raises(BadWeights, match="lacks outside"):
        SafetensorsWeights(inside)


# --- writing


@pytest.mark.parametrize("case", CASES)
def test_transformers_loads_what_is_saved(case: str, tmp_path: Path, seed: int) -> None:
    write_directory(toy(case, seed), tmp_path / "in")
    model = model_of(tmp_path / "in")
    model.save(tmp_path / "out")
    peer, info = reloaded(tmp_path / "out")
    assert not any(info.values()), info
    sequences = draw_sequences(model.network, [9, 1, 23], seed)
    assert largest_difference(packed_logits(model.network, sequences), peer_logits(peer, sequences)) < 1e-4
    with open(tmp_path / "out" / "model.safetensors", "rb") as file:
        assert int.from_bytes(file.read(8), "little") % 8 == 0, "readers that map the file want aligned tensors"
    again = model_of(tmp_path / "out")
    assert again.config == model.config
    for (name, a), b in zip(model.network.named_parameters(), again.network.parameters(), strict=True):
        assert torch.equal(a, b), name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_type_in_memory_is_the_type_on_disk(dtype: torch.dtype, tmp_path: Path, seed: int) -> None:
    write_directory(toy("deepseek_v3", seed), tmp_path / "in")
    model = model_of(tmp_path / "in", dtype)
    model.save(tmp_path / "out")
    kinds = {name: tensor.dtype for name, tensor in load_file(tmp_path / "out" / "model.safetensors").items()}
    assert {kind for name, kind in kinds.items() if "correction_bias" not in name} == {dtype}
    peer, info = reloaded(tmp_path / "out")
    assert not any(info.values())
    assert peer.dtype == transformers.AutoConfig.from_pretrained(tmp_path / "out").dtype == dtype


def test_shards_and_their_index(tmp_path: Path, seed: int) -> None:
    write_directory(toy("llama", seed), tmp_path / "in")
    model = model_of(tmp_path / "in")
    model.save(tmp_path / "out", max_shard_bytes=30_000)
    shards = sorted((tmp_path / "out").glob("*.safetensors"))
    biggest = max(parameter.nbytes for parameter in model.network.parameters())
    assert len(shards) > 3
    assert shards[0].name == f"model-00001-of-{len(shards):05}.safetensors"
    assert all(path.stat().st_size < max(30_000, biggest) + 5_000 for path in shards)
    _, info = reloaded(tmp_path / "out")
    assert not any(info.values())
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(p.nbytes for p in model.network.parameters())


def test_mtp_modules_are_saved_as_deepseek_publishes_them(tmp_path: Path, seed: int) -> None:
    hf = toy("deepseek_v3", seed).config.to_dict() | {"num_nextn_predict_layers": 2}  # type: ignore[union-attr, operator]
    write_directory(toy("deepseek_v3", seed), tmp_path / "in")
    config = ModelConfig.from_hf(hf)
    network = unfilled(config).to_empty(device="cpu").eval()
    randomise(network, seed)
    model = model_of(tmp_path / "in")
    model.config, model.network = config, network
    model.save(tmp_path / "out")
    stored = load_file(tmp_path / "out" / "model.safetensors")
    for layer in (3, 4):
        names = {name.removeprefix(f"model.layers.{layer}.") for name in stored if f".{layer}." in name}
        assert {"enorm.weight", "hnorm.weight", "eh_proj.weight", "shared_head.norm.weight"} < names
        assert torch.equal(stored[f"model.layers.{layer}.embed_tokens.weight"], stored["model.embed_tokens.weight"])
        assert torch.equal(stored[f"model.layers.{layer}.shared_head.head.weight"], stored["lm_head.weight"])
    # transformers ignores the module of the released model, which is layer 61, by that number; here it reports them.
    _, info = reloaded(tmp_path / "out")
    assert not info["missing_keys"]
    assert all(name.startswith(("model.layers.3.", "model.layers.4.")) for name in info["unexpected_keys"])
    again = model_of(tmp_path / "out")
    assert len(again.network.mtp) == 2
    for (name, a), b in zip(network.named_parameters(), again.network.parameters(), strict=True):
        assert torch.equal(a, b), name


def test_tokenizer_template_and_generation_settings_go_along(tmp_path: Path, seed: int) -> None:
    write_directory(toy("llama", seed), tmp_path / "in")
    settings = json.loads((tmp_path / "in" / "tokenizer_config.json").read_text())
    del settings["chat_template"]  # as a tokenizer from GGUF has it
    (tmp_path / "in" / "tokenizer_config.json").write_text(json.dumps(settings))
    model_of(tmp_path / "in").save(tmp_path / "out")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    messages = [{"role": "user", "content": "hello you"}]
    text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    assert text == "<|im_start|>user\nhello you<|im_end|>\n<|im_start|>assistant\n"
    assert tokenizer.eos_token_id == 2
    generation = transformers.GenerationConfig.from_pretrained(tmp_path / "out")
    assert generation.eos_token_id == [2, 0]
    assert (generation.do_sample, generation.temperature, generation.top_p) == (True, 0.6, 0.95)


def test_a_model_is_replaced_and_nothing_else_is(tmp_path: Path, seed: int) -> None:
    write_directory(toy("llama", seed), tmp_path / "in")
    model = model_of(tmp_path / "in")
    out = tmp_path / "out"
    model.save(out, max_shard_bytes=30_000)
    model.save(out)
    assert {path.name for path in out.iterdir()} == {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    model.save(tmp_path / "in")  # the directory that it was loaded from
    (tmp_path / "empty").mkdir()
    model.save(tmp_path / "empty")
    (out / "runs").mkdir()
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("x")
    (tmp_path / "file").write_text("x")
    for place, words in (
        (out, "has runs beside a model"),
        (tmp_path / "thesis", "something else"),
        (tmp_path / "file", "file"),
    ):
        with pytest.raises(MilletError, match=words) as error:
            model.save(place)
        assert "choose a new directory" in str(error.value)
    assert (tmp_path / "thesis" / "chapter.tex").read_text() == "x"
    assert not list(tmp_path.glob(".*"))


def test_a_full_disk_leaves_nothing_behind_and_the_old_model_whole(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_directory(toy("llama", seed), tmp_path / "in")
    model = model_of(tmp_path / "in")
    model.save(tmp_path / "out")
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}

    def refused() -> None:
        for place in ("out", "new"):
            with pytest.raises(MilletError, match=r"cannot save to .*make room or choose another place") as error:
                save(model, tmp_path / place)
            assert "\n" not in str(error.value)
        assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
        assert not (tmp_path / "new").exists()
        assert not list(tmp_path.glob(".*"))

    full = shutil._ntuple_diskusage(10**9, 10**9, 1000)  # type: ignore[attr-defined]
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: full)
        refused()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))  # writing past it fails as on a full disk
    try:
        refused()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_the_old_model_comes_back_when_the_new_one_cannot_take_its_place(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_directory(toy("llama", seed), tmp_path / "in")
    model = model_of(tmp_path / "in")
    model.save(tmp_path / "out")
    before = (tmp_path / "out" / "model.safetensors").stat().st_ino
    rename = Path.rename

    def failing(self: Path, target: Path) -> Path:
        if ".saving-" in self.name and not self.name.endswith(".old"):
            raise OSError(28, "No space left on device")
        return rename(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", failing)
        with pytest.raises(MilletError, match="No space left on device"):
            model.save(tmp_path / "out")
    assert (tmp_path / "out" / "model.safetensors").stat().st_ino == before
    assert not list(tmp_path.glob(".*"))


def test_quantisation_is_not_claimed_after_saving(tmp_path: Path, seed: int) -> None:
    write_directory(toy("llama", seed), tmp_path / "in")
    write_tokenizer(tmp_path / "in")
    model = model_of(tmp_path / "in")
    model.config.hf["quantization_config"] = {"quant_method": "fp8", "weight_block_size": [128, 128]}
    model.save(tmp_path / "out")
    assert "quantization_config" not in json.loads((tmp_path / "out" / "config.json").read_text())
