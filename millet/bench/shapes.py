"""Models of a known shape with random weights: the speed of a model that cannot be downloaded here can be measured.

A shape is written once as a GGUF file that Millet and llama.cpp both load, tensor by tensor, so that little memory is
used. Random weights cost the same time as trained ones; what such a model says is noise.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from millet.errors import BadRequest
from millet.models.hub import home

SEED = 0  # the same file on every machine
GROUP = 32  # weights that share a scale, in Q4_0 and Q8_0
PIECE = 1 << 20  # blocks made at once


@dataclass(frozen=True, slots=True)
class Shape:
    """A dense Qwen2 network: biases on queries, keys and values; an embedding apart from the head."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    intermediate: int
    vocabulary: int
    context: int
    rope_theta: float = 10000.0
    rms_norm_eps: float = 1e-6


SHAPES = {
    # config.json of deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B
    "r1-distill-qwen-1.5b": Shape(1536, 28, 12, 2, 8960, 151936, 131072),
}

KIND = "Q4_0"
"""Of all matrices but the embedding and the head, which are Q8_0; norms and biases are F32."""


def shape_file(name: str) -> Path:
    """The GGUF file of a shape by its name; written first if it is not here. Raises BadRequest for an unknown one."""
    if name not in SHAPES:
        raise BadRequest(f"no shape is called {name!r}; there are {', '.join(SHAPES)}")
    final = home() / "bench" / f"{name}.{KIND}.gguf"
    if not final.exists():
        final.parent.mkdir(parents=True, exist_ok=True)
        partial = final.with_name(f".{final.name}.{os.getpid()}")
        try:
            write(SHAPES[name], partial)
            partial.replace(final)
        finally:
            partial.unlink(missing_ok=True)
    return final


def write(shape: Shape, path: Path) -> None:
    """A GGUF file with random weights whose activations stay of the size that trained ones have."""
    try:
        import gguf
    except ImportError as error:
        raise BadRequest("writing a shape needs the package gguf; install it with pip") from error
    writer = gguf.GGUFWriter(path, "qwen2")
    _add_settings(writer, shape, gguf)
    _add_tokenizer(writer, shape.vocabulary, gguf)
    kinds = {"Q4_0": gguf.GGMLQuantizationType.Q4_0, "Q8_0": gguf.GGMLQuantizationType.Q8_0}
    tensors = list(_tensors(shape))
    for name, size, kind in tensors:
        if kind == "F32":
            writer.add_tensor_info(name, size, np.dtype(np.float32), 4 * size[0])
        else:
            stored = (size[0], size[1] // GROUP * _block(kind).itemsize)
            writer.add_tensor_info(name, stored, np.dtype(np.uint8), stored[0] * stored[1], kinds[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    draw = np.random.default_rng(SEED)
    for name, size, kind in tensors:
        writer.write_tensor_data(_vector(draw, name, size[0]) if kind == "F32" else _matrix(draw, size, kind))
    writer.close()


def _tensors(shape: Shape) -> Iterator[tuple[str, tuple[int, ...], str]]:
    """Name, size (rows, columns) and type of each, in the order of the file."""
    head = shape.hidden // shape.heads
    width, kv_width, inner = shape.heads * head, shape.kv_heads * head, shape.intermediate
    yield "token_embd.weight", (shape.vocabulary, shape.hidden), "Q8_0"
    for layer in range(shape.layers):
        start = f"blk.{layer}."
        yield start + "attn_norm.weight", (shape.hidden,), "F32"
        for part, rows in (("q", width), ("k", kv_width), ("v", kv_width)):
            yield f"{start}attn_{part}.weight", (rows, shape.hidden), KIND
            yield f"{start}attn_{part}.bias", (rows,), "F32"
        yield start + "attn_output.weight", (shape.hidden, width), KIND
        yield start + "ffn_norm.weight", (shape.hidden,), "F32"
        yield start + "ffn_gate.weight", (inner, shape.hidden), KIND
        yield start + "ffn_up.weight", (inner, shape.hidden), KIND
        yield start + "ffn_down.weight", (shape.hidden, inner), KIND
    yield "output_norm.weight", (shape.hidden,), "F32"
    yield "output.weight", (shape.vocabulary, shape.hidden), "Q8_0"


def _block(kind: str) -> np.dtype[Any]:
    """One group of weights as ggml stores it: an fp16 scale, then 32 half bytes or 32 bytes."""
    return np.dtype([("scale", "<f2"), ("values", "u1", GROUP // 2 if kind == "Q4_0" else GROUP)])


def _matrix(draw: np.random.Generator, size: tuple[int, ...], kind: str) -> np.ndarray:
    """Random blocks as bytes. Weights have a deviation near 1 / sqrt(columns), so that no layer blows numbers up."""
    rows, columns = size
    blocks = np.empty(rows * columns // GROUP, _block(kind))
    deviation = 4.6 if kind == "Q4_0" else 73.9  # of the stored integers, which are uniform
    for start in range(0, len(blocks), PIECE):
        piece = blocks[start : start + PIECE]
        piece["values"] = draw.integers(0, 256, piece["values"].shape, np.uint8)
        piece["scale"] = draw.uniform(0.75, 1.25, len(piece)) / (deviation * columns**0.5)
    return blocks.view(np.uint8).reshape(rows, -1)


def _vector(draw: np.random.Generator, name: str, size: int) -> np.ndarray:
    noise = 0.1 * draw.standard_normal(size, np.float32)
    return noise if name.endswith(".bias") else 1 + noise


def _add_settings(writer: Any, shape: Shape, gguf: Any) -> None:
    writer.add_block_count(shape.layers)
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.hidden)
    writer.add_feed_forward_length(shape.intermediate)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_rope_freq_base(shape.rope_theta)
    writer.add_layer_norm_rms_eps(shape.rms_norm_eps)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q4_0)


def _add_tokenizer(writer: Any, vocabulary: int, gguf: Any) -> None:
    """Byte-level BPE with a single merge; the rest of the vocabulary stands for no text."""
    from tokenizers import pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*letters, "he", "<|endoftext|>"]
    kinds = [gguf.TokenType.NORMAL] * (len(letters) + 1) + [gguf.TokenType.CONTROL]
    unused = vocabulary - len(tokens)
    end = len(tokens) - 1
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens + [f"[PAD{i}]" for i in range(unused)])
    writer.add_token_types(kinds + [gguf.TokenType.UNUSED] * unused)
    writer.add_token_merges(["h e"])
    writer.add_bos_token_id(end)
    writer.add_eos_token_id(end)
    writer.add_pad_token_id(end)
    writer.add_add_bos_token(False)
