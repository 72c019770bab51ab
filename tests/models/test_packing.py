"""In which format weights are kept: the rules, what they cost in accuracy, and the way back to disk."""

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from millet.engine.engine import Engine
from millet.engine.sampling import Sampling
from millet.errors import BadRequest, MilletError
from millet.kernels.matrix import SIZES, Matrix
from millet.kernels.native.abi import Format
from millet.models.config import ModelConfig
from millet.models.load import load
from millet.models.model import Model
from millet.models.packing import choose_formats, packed_bytes
from millet.models.weights import group_places, unfilled
from tests.models.files import CASES, VOCAB, toy, write_directory, write_gguf
from tests.models.toy import draw_sequences, peer_logits

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
DOWN = "model.layers.1.mlp.down_proj.weight"


class Stored:
    """Weights of which only the shapes and kinds are asked for."""

    source = "the fake"

    def __init__(self, config: ModelConfig, kind: str, kinds: dict[str, str] | None = None) -> None:
        self.shapes = {name: tuple(p.shape) for name, p in unfilled(config).named_parameters()}
        self.kinds = dict.fromkeys(self.shapes, kind) | (kinds or {})

    def kind(self, name: str) -> str:
        return self.kinds[name]


def formats_of(case: str, kind: str, quantize: Any = None, kinds: dict[str, str] | None = None) -> dict[str, Format]:
    """With hidden widths 32 and 64, which groups of 32 fit, and in two places 48 and 24, which they do not."""
    architecture, base = CASES[case]
    settings = {"model_type": architecture, **base, **VOCAB}
    config = ModelConfig.from_hf(settings)
    return choose_formats(unfilled(config), Stored(config, kind, kinds), quantize)  # type: ignore[arg-type]


@pytest.mark.usefixtures("with_native")
class TestTheRules:
    def test_floats_stay_floats(self) -> None:
        assert formats_of("qwen3", "F32") == {}
        assert formats_of("qwen3", "BF16") == {}
        assert formats_of("deepseek_v3", "F8_E4M3") == {}
        assert set(formats_of("qwen3", "F16").values()) == {Format.F16}

    @pytest.mark.parametrize(("kind", "format"), [("Q8_0", Format.Q8), ("Q4_0", Format.Q4_0), ("Q4_1", Format.Q4_1)])
    def test_what_a_file_has_is_what_is_computed_with(self, kind: str, format: Format) -> None:
        found = formats_of("llama", kind)
        assert set(found.values()) == {format}
        assert EMBEDDING in found
        assert "model.layers.0.self_attn.q_proj.weight" in found
        assert not any("norm" in name or "bias" in name for name in found)

    @pytest.mark.parametrize("kind", ["Q4_K", "Q5_K", "Q6_K", "Q5_0", "IQ4_NL"])
    def test_other_quantised_kinds_become_8_bit(self, kind: str) -> None:
        assert set(formats_of("llama", kind).values()) == {Format.Q8}

    def test_widths_that_groups_do_not_fit_stay_fp32(self) -> None:
        for quantize in ("q8", "q4"):
            found = formats_of("llama", "BF16", quantize)  # down_proj has 48 inputs
            assert DOWN not in found
            assert "model.layers.1.mlp.up_proj.weight" in found
        assert DOWN not in formats_of("llama", "Q6_K")

    def test_4_bits_spare_the_two_ends(self) -> None:
        for case in ("llama", "llama-tied"):
            found = formats_of(case, "F32", "q4")
            ends = {name: format for name, format in found.items() if name in (EMBEDDING, HEAD)}
            assert set(ends.values()) == {Format.Q8}
            assert len(ends) == (1 if case == "llama-tied" else 2)
            assert {format for name, format in found.items() if name not in ends} == {Format.Q4_0}
        assert set(formats_of("llama", "F32", "q8").values()) == {Format.Q8}

    def test_routers_and_what_attention_absorbs_stay_fp32(self) -> None:
        found = formats_of("deepseek_v3", "BF16", "q4")
        assert not any(name.endswith("gate.weight") or "kv_b_proj" in name for name in found)
        assert "model.layers.1.mlp.experts.3.gate_proj.weight" in found

    def test_fewer_bits_are_never_made_more(self) -> None:
        kinds = {"model.layers.0.mlp.up_proj.weight": "Q4_1", "model.layers.0.mlp.gate_proj.weight": "Q8_0"}
        assert formats_of("llama", "F32", "q8", kinds)["model.layers.0.mlp.up_proj.weight"] is Format.Q4_1
        found = formats_of("llama", "F32", "q4", kinds)
        assert found["model.layers.0.mlp.up_proj.weight"] is Format.Q4_1
        assert found["model.layers.0.mlp.gate_proj.weight"] is Format.Q4_0
        assert formats_of("llama", "Q8_0", "q4")[EMBEDDING] is Format.Q8

    def test_off_means_fp32(self) -> None:
        assert formats_of("llama", "Q4_0", "off") == {}

    def test_what_is_unknown_is_refused(self) -> None:
        with pytest.raises(BadRequest, match="q8, q4, off"):
            formats_of("llama", "F32", "q5")

    def test_memory_is_counted_as_it_is_taken(self) -> None:
        formats = formats_of("llama", "F32", "q4")
        shapes = Stored(ModelConfig.from_hf({"model_type": "llama", **CASES["llama"][1], **VOCAB}), "F32").shapes
        total = sum(np.prod(s) * (SIZES[formats[name]] if name in formats else 4) for name, s in shapes.items())
        assert packed_bytes(shapes, formats, 4) == int(total)


def test_without_the_native_kernels_everything_is_fp32(without_native: None) -> None:
    assert formats_of("llama", "Q8_0") == {}
    assert formats_of("llama", "F16", "off") == {}


def mixed_sizes(case: str) -> dict[str, int]:
    """Some widths are multiples of 32 and some are not."""
    if case.startswith("deepseek"):
        return {"hidden_size": 64, "moe_intermediate_size": 32, "kv_lora_rank": 32}
    return {"hidden_size": 64, "intermediate_size": 80}


def kept_formats(model: Model) -> dict[str, Format]:
    found = {name: group.packed_at(index) for name, (group, index, _) in group_places(model.network).items()}
    assert all(matrix is not None for matrix in found.values())
    return {name: matrix.format for name, matrix in found.items() if matrix is not None}


def relative_error(found: list[Tensor], expected: list[Tensor]) -> float:
    return ((torch.cat(found) - torch.cat(expected)).norm() / torch.cat(expected).norm()).item()


@pytest.mark.usefixtures("with_native")
@pytest.mark.parametrize("quantize", ["q8", "q4"])
@pytest.mark.parametrize("case", ["llama-biases", "qwen3-tied", "deepseek_v3"])
def test_a_directory_quantised_at_load(case: str, quantize: Any, tmp_path: Path, seed: int) -> None:
    peer = toy(case, seed, **mixed_sizes(case))
    directory = write_directory(peer, tmp_path / "toy")
    model = load(directory, quantize=quantize)
    formats = kept_formats(model)
    assert model.quantised
    assert model.cache_dtype == torch.float16
    assert set(formats.values()) == {Format.F32, Format.Q8, *([Format.Q4_0] if quantize == "q4" else [])}
    # Against the same network with the values that the packed weights stand for: only activations are rounded.
    plain = load(directory)
    before = {name: p.detach().clone() for name, p in unpacked(plain).items()}
    with torch.no_grad():
        for name, value in unpacked(plain).items():
            if formats.get(name, Format.F32) is not Format.F32:
                value.copy_(Matrix.pack(value, formats[name]).unpack())
    changed = {name for name, p in unpacked(plain).items() if not torch.equal(p, before[name])}
    assert changed == {name for name, format in formats.items() if format is not Format.F32}
    sequences = [ids.tolist() for ids in draw_sequences(plain.network, [9, 40], seed)]
    if case == "deepseek_v3":  # rounding may send a token to another expert, which is no small change
        assert all(model.logits(ids).isfinite().all() for ids in sequences)
    else:
        error = relative_error([model.logits(ids) for ids in sequences], [plain.logits(ids) for ids in sequences])
        assert error < 0.08, "8-bit activations"
        full = peer_logits(peer, [torch.tensor(ids) for ids in sequences])
        assert relative_error([model.logits(ids) for ids in sequences], full) < (0.1 if quantize == "q8" else 0.8)
    with Engine(model, cache_tokens=256) as engine:
        out = engine.generate(sequences, Sampling(max_tokens=8, seed=1, temperature=1.0, logprobs=True))[0][0]
    assert len(out.token_ids) == len(out.logprobs or ()) > 0


def unpacked(model: Model) -> dict[str, Tensor]:
    model.network.unpack()
    return dict(model.network.named_parameters())


@pytest.mark.usefixtures("with_native")
@pytest.mark.parametrize("quantize", ["q8", "q4"])
def test_a_quantised_model_is_saved_with_the_values_it_stands_for(quantize: Any, tmp_path: Path, seed: int) -> None:
    directory = write_directory(toy("llama", seed, **mixed_sizes("llama")), tmp_path / "toy")
    model = load(directory, quantize=quantize)
    formats = kept_formats(model)
    ids = torch.randint(3, 280, (20,)).tolist()
    before = model.logits(ids)
    model.save(tmp_path / "out")
    original, saved = load_file(directory / "model.safetensors"), load_file(tmp_path / "out" / "model.safetensors")
    for name, weight in original.items():
        format = formats.get(name, Format.F32)
        expected = weight if format is Format.F32 else Matrix.pack(weight, format).unpack()
        assert torch.equal(saved[name], expected), name
    assert kept_formats(model) == formats, "saving leaves the model as it was"
    assert torch.equal(model.logits(ids), before)
    again = load(tmp_path / "out")
    assert relative_error([again.logits(ids)], [before]) < 0.08


@pytest.mark.usefixtures("with_native")
def test_saving_leaves_a_gguf_model_as_it_was(tmp_path: Path, seed: int) -> None:
    model = load(write_gguf(toy("llama", seed, **mixed_sizes("llama")), tmp_path / "toy.gguf", "Q4_1"))
    formats, ids = kept_formats(model), list(range(3, 20))
    before = model.logits(ids)
    (tmp_path / "file").write_text("in the way")
    with pytest.raises((MilletError, OSError)):
        model.save(tmp_path / "file" / "out")
    model.save(tmp_path / "out")
    assert kept_formats(model) == formats
    assert torch.equal(model.logits(ids), before)


@pytest.mark.usefixtures("with_native")
@pytest.mark.parametrize("kind", ["F16", "Q8_0", "Q4_0", "Q4_1"])
@pytest.mark.parametrize("case", ["llama", "qwen3", "deepseek_v2"])
def test_a_gguf_file_is_computed_with_as_it_is(case: str, kind: str, tmp_path: Path, seed: int) -> None:
    """Bytes are moved, rows of llama's queries and keys back to their places; the values are the file's."""
    peer = toy(case, seed, **mixed_sizes(case))
    model = load(write_gguf(peer, tmp_path / "toy.gguf", kind))
    decoded = load(write_gguf(peer, tmp_path / "decoded.gguf", kind, decoded=True))
    formats = kept_formats(model)
    expected = {"F16": Format.F16, "Q8_0": Format.Q8, "Q4_0": Format.Q4_0, "Q4_1": Format.Q4_1}[kind]
    assert set(formats.values()) - {Format.F32} == {expected}
    assert (Format.F32 in formats.values()) == (kind != "F16" or case == "deepseek_v2")  # odd widths, and routers
    ours, theirs = unpacked(model), unpacked(decoded)
    assert ours.keys() == theirs.keys()
    for name, weight in ours.items():
        assert torch.equal(weight, theirs[name]), name


@pytest.mark.usefixtures("with_native")
@pytest.mark.parametrize("kind", [gguf.GGMLQuantizationType.Q4_K, gguf.GGMLQuantizationType.Q6_K])
def test_k_quants_become_8_bit(kind: gguf.GGMLQuantizationType, tmp_path: Path, seed: int) -> None:
    """Blocks of 256 with random scales and integers: what they decode to, rounded to 8 bits."""
    rng = np.random.default_rng(seed)
    peer = toy("qwen3", seed, hidden_size=256, intermediate_size=256)
    _, size = gguf.GGML_QUANT_SIZES[kind]
    names = {
        f"blk.{i}.ffn_{part}.weight": f"model.layers.{i}.mlp.{part}_proj.weight"
        for i in (0, 2)
        for part in ("up", "down")
    }
    raw = {name: random_blocks(kind, size, rng) for name in names}
    path = with_raw_tensors(peer, tmp_path, kind, raw)
    model = load(path)
    formats = kept_formats(model)
    assert {name for name, format in formats.items() if format is Format.Q8} == set(names.values())
    weights = unpacked(model)
    for gguf_name, name in names.items():
        decoded = torch.from_numpy(gguf.quants.dequantize(raw[gguf_name], kind))
        assert torch.equal(weights[name], Matrix.pack(decoded, Format.Q8).unpack())
        step = decoded.unflatten(1, (-1, 32)).abs().amax(-1).repeat_interleave(32, 1) / 127
        assert ((weights[name] - decoded).abs() <= 0.51 * step + 1e-3 * decoded.abs()).all()


def random_blocks(kind: gguf.GGMLQuantizationType, size: int, rng: np.random.Generator) -> np.ndarray:
    blocks = rng.integers(0, 256, (256, 1, size), dtype=np.uint8)
    scales = (rng.random((256, 1, 2)) * 0.01 + 0.001).astype(np.float16).view(np.uint8)
    if kind is gguf.GGMLQuantizationType.Q4_K:
        blocks[..., :4] = scales  # d and dmin come first
    else:
        blocks[..., -2:] = scales[..., :2]  # d comes last
    return blocks.reshape(256, size)


def with_raw_tensors(peer: Any, folder: Path, kind: gguf.GGMLQuantizationType, raw: dict[str, np.ndarray]) -> Path:
    """The model as GGUF in F32, but for some tensors given as bytes."""
    add_tensor = gguf.GGUFWriter.add_tensor

    def add(self: gguf.GGUFWriter, name: str, tensor: np.ndarray, *rest: Any, **more: Any) -> None:
        if name in raw:
            add_tensor(self, name, raw[name], raw_dtype=kind)
        else:
            add_tensor(self, name, tensor, *rest, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gguf.GGUFWriter, "add_tensor", add)
        return write_gguf(peer, folder / "k.gguf")


def test_wishes_that_contradict_each_other_are_refused(tmp_path: Path, seed: int, way: str) -> None:
    directory = write_directory(toy("qwen3", seed), tmp_path / "toy")
    with pytest.raises(BadRequest, match="contradict" if way == "native" else "needs the native kernels"):
        load(directory, quantize="q8", dtype="bfloat16")
    assert not load(directory, quantize="off").quantised
    assert not load(directory, dtype="float32").quantised
