"""The GGUF writer at a tiny shape, read back by Millet and by the `gguf` package."""

from pathlib import Path

import gguf
import numpy as np
import pytest

import millet
from millet.bench import shapes
from millet.bench.llamacpp import kind_of, weight_bytes
from millet.bench.shapes import SHAPES, Shape, shape_file, write
from millet.models.config import ModelConfig

TINY = Shape(hidden=64, layers=2, heads=4, kv_heads=2, intermediate=96, vocabulary=320, context=256)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("shape") / "tiny.gguf"
    write(TINY, path)
    return path


def test_millet_loads_it_with_the_shape_it_was_asked_for(tiny: Path) -> None:
    model = millet.load(tiny, dtype="float32", device="cpu")
    config = model.config
    assert (config.hf["model_type"], config.hidden_size, config.num_layers, config.num_heads) == ("qwen2", 64, 2, 4)
    assert (config.hf["num_key_value_heads"], config.intermediate_size, config.vocab_size) == (2, 96, 320)
    assert (config.hf["rope_theta"], config.rms_norm_eps, config.max_position_embeddings) == (10000.0, 1e-6, 256)
    assert not config.tie_word_embeddings
    assert model.tokenizer.decode(model.tokenizer.encode("hello")) == "hello"
    logits = model.logits([1, 2, 3]).numpy()
    assert logits.shape == (3, 320)
    assert np.isfinite(logits).all()
    assert 0.1 < logits.std() < 10, "activations of the size that trained weights give"


def test_weights_are_of_the_stated_types_and_of_trained_size(tiny: Path) -> None:
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(tiny).tensors}
    kinds = {name: tensor.tensor_type.name for name, tensor in tensors.items()}
    assert {kinds[name] for name in ("token_embd.weight", "output.weight")} == {"Q8_0"}
    assert {kind for name, kind in kinds.items() if name.endswith(("norm.weight", "bias"))} == {"F32"}
    assert {kind for name, kind in kinds.items() if "attn_q.w" in name or "ffn_gate" in name} == {"Q4_0"}
    for name, columns in (("blk.1.ffn_down.weight", 96), ("blk.0.attn_q.weight", 64), ("output.weight", 64)):
        tensor = tensors[name]
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        assert values.std() == pytest.approx(columns**-0.5, rel=0.15)
    assert kind_of(tiny) == "Q4_0"


def test_weight_bytes_leave_out_the_embedding_that_is_looked_up(tiny: Path) -> None:
    tensors = gguf.GGUFReader(tiny).tensors
    assert weight_bytes(tiny) == sum(int(t.n_bytes) for t in tensors if t.name != "token_embd.weight")


def test_the_file_is_written_once_and_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILLET_HOME", str(tmp_path))
    monkeypatch.setitem(SHAPES, "tiny", TINY)
    path = shape_file("tiny")
    assert list((tmp_path / "bench").iterdir()) == [path]
    monkeypatch.setattr(shapes, "write", lambda shape, path: pytest.fail("it was there already"))
    assert shape_file("tiny") == path


def test_what_was_begun_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(shape: Shape, path: Path) -> None:
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setenv("MILLET_HOME", str(tmp_path))
    monkeypatch.setitem(SHAPES, "tiny", TINY)
    monkeypatch.setattr(shapes, "write", broken)
    with pytest.raises(KeyboardInterrupt):
        shape_file("tiny")
    assert list((tmp_path / "bench").iterdir()) == []


def test_the_distilled_model_has_its_published_number_of_parameters() -> None:
    shape = SHAPES["r1-distill-qwen-1.5b"]
    config = ModelConfig.from_hf(
        {
            "model_type": "qwen2",
            "hidden_size": shape.hidden,
            "num_hidden_layers": shape.layers,
            "num_attention_heads": shape.heads,
            "num_key_value_heads": shape.kv_heads,
            "intermediate_size": shape.intermediate,
            "vocab_size": shape.vocabulary,
            "max_position_embeddings": shape.context,
            "tie_word_embeddings": False,
        }
    )
    assert config.num_parameters == 1_777_088_000  # the safetensors of deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B
    assert sum(int(np.prod(size)) for _, size, _ in shapes._tensors(shape)) == config.num_parameters
