"""GGUF files: metadata, and tensors under their Hugging Face names.

The format (github.com/ggml-org/ggml, docs/gguf.md), little endian: magic, version, counts; key-value metadata; one
entry per tensor with its shape (innermost dimension first), type and offset; then, aligned, the data. What the keys
mean is in gguf_config.py, what the names mean in gguf_layout.py.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from millet.errors import BadWeights, UnsupportedModel
from millet.kernels.dequantize import FORMATS
from millet.models.gguf_layout import Source, sources
from millet.models.mapped_file import MappedFile, read_values

STRING, ARRAY = 8, 9
NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
TYPES = {0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 6: "Q5_0", 7: "Q5_1", 8: "Q8_0", 9: "Q8_1", 10: "Q2_K", 11: "Q3_K"}
TYPES |= {12: "Q4_K", 13: "Q5_K", 14: "Q6_K", 15: "Q8_K", 16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S"}
TYPES |= {20: "IQ4_NL", 21: "IQ3_S", 22: "IQ2_S", 23: "IQ4_XS", 24: "I8", 25: "I16", 26: "I32", 27: "I64", 28: "F64"}
TYPES |= {29: "IQ1_M", 30: "BF16", 34: "TQ1_0", 35: "TQ2_0", 39: "MXFP4", 40: "NVFP4"}


@dataclass(frozen=True, slots=True)
class GGUFTensor:
    shape: tuple[int, ...]  # outermost dimension first, as in PyTorch
    kind: str
    start: int  # byte in the file


class GGUFFile:
    """`metadata` (strings, numbers, lists of them) and `tensors` by name.

    Raises UnsupportedModel for a version or byte order it cannot read, BadWeights when the file is cut short or
    corrupt: every length and offset is checked against the file's size.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file = MappedFile(path)
        self._position = 0
        try:
            self.metadata, self.tensors = self._parse()
        except (struct.error, ArithmeticError, LookupError, RecursionError, TypeError, ValueError) as error:
            self.file.close()
            raise self.corrupt("its header cannot be read") from error
        self.file.release(0, self._position)

    def corrupt(self, what: str) -> BadWeights:
        return BadWeights(f"{self.path} is cut short or corrupt: {what}; pull or copy it again")

    def _parse(self) -> tuple[dict[str, Any], dict[str, GGUFTensor]]:
        if self._bytes(4) != b"GGUF":
            raise self.corrupt("it does not begin as a GGUF file does")
        (version,) = self._numbers("I")
        if version not in (2, 3):
            raise UnsupportedModel(
                f"{self.path} is GGUF version {version}; Millet reads versions 2 and 3, little endian"
            )
        tensors, pairs = self._numbers("QQ")
        metadata = dict(self._pair() for _ in range(pairs))
        entries = dict(self._entry() for _ in range(tensors))
        alignment = metadata.get("general.alignment", 32)
        origin = -(-self._position // alignment) * alignment
        return metadata, {name: self._place(name, origin, *entry) for name, entry in entries.items()}

    def _numbers(self, layout: str) -> tuple[Any, ...]:
        values = struct.unpack_from("<" + layout, self.file.buffer, self._position)
        self._position += struct.calcsize("<" + layout)
        return values

    def _bytes(self, length: int) -> bytes:
        start = self._position
        self._position += length
        if self._position > len(self.file.buffer):
            raise ValueError("a length that points past the end")
        return self.file.buffer[start : self._position]

    def _string(self) -> str:
        return self._bytes(*self._numbers("Q")).decode(errors="replace")

    def _pair(self) -> tuple[str, Any]:
        return self._string(), self._value(*self._numbers("I"))

    def _value(self, kind: int) -> Any:
        if kind == STRING:
            return self._string()
        if kind != ARRAY:
            return self._numbers(NUMBERS[kind])[0]
        kind, count = self._numbers("IQ")
        if kind == STRING:
            return self._strings(count)
        if kind == ARRAY:
            return [self._value(ARRAY) for _ in range(count)]
        dtype = np.dtype(NUMBERS[kind]).newbyteorder("<")
        return np.frombuffer(self._bytes(count * dtype.itemsize), dtype).tolist()

    def _strings(self, count: int) -> list[str]:
        """`_string` unrolled, for vocabularies: a hundred thousand of them in some 30 ms."""
        buffer, position, length_at, strings = self.file.buffer, self._position, struct.Struct("<Q").unpack_from, []
        for _ in range(count):
            start = position + 8
            position = start + length_at(buffer, position)[0]
            strings.append(buffer[start:position].decode(errors="replace"))
        self._position = position
        if position > len(buffer):
            raise ValueError("a length that points past the end")
        return strings

    def _entry(self) -> tuple[str, tuple[tuple[int, ...], int, int]]:
        name = self._string()
        (dimensions,) = self._numbers("I")
        shape = self._numbers("Q" * min(dimensions, 8))
        return name, (tuple(reversed(shape)), *self._numbers("IQ"))

    def _place(self, name: str, origin: int, shape: tuple[int, ...], type_id: int, offset: int) -> GGUFTensor:
        tensor = GGUFTensor(shape, TYPES.get(type_id, f"number {type_id}"), origin + offset)
        block = FORMATS.get(tensor.kind)
        values = prod(shape)
        if not shape or not values or (block and shape[-1] % block.values):
            raise self.corrupt(f"{name} has shape {shape}")
        if tensor.start + (values // block.values * block.size if block else 0) > len(self.file.buffer):
            raise self.corrupt(f"{name} would end past the end of the file")
        return tensor


class GGUFWeights:
    """The tensors of a GGUF file as `Weights`: under Hugging Face names, laid out as Hugging Face lays them out."""

    def __init__(self, gguf: GGUFFile) -> None:
        self.source = str(gguf.path)
        self._file, self._tensors = gguf.file, gguf.tensors  # not the metadata: a vocabulary is many small strings
        for name, tensor in gguf.tensors.items():
            if tensor.kind not in FORMATS:
                raise UnsupportedModel(
                    f"{gguf.path}: {name} has type {tensor.kind}, which is not supported; "
                    f"get the model in one of {', '.join(FORMATS)}"
                )
        shapes = {name: tensor.shape for name, tensor in gguf.tensors.items()}
        self._sources: Mapping[str, Source] = sources(gguf.metadata, shapes)
        self.shapes: Mapping[str, tuple[int, ...]] = {name: source.shape for name, source in self._sources.items()}

    def read(self, name: str, out: Tensor) -> None:
        for part in self._sources[name].parts:
            tensor = self._tensors[part.tensor]
            block = FORMATS[tensor.kind]
            start = tensor.start + part.first // block.values * block.size
            read_values(self._file, start, tensor.kind, part.view(out))

    def kind(self, name: str) -> str:
        return self._tensors[self._sources[name].parts[0].tensor].kind

    def raw(self, name: str) -> tuple[Tensor, Tensor | None] | None:
        source = self._sources[name]
        if len(source.parts) > 1 or len(source.shape) != 2:
            return None
        start, stop = self._range(name)
        # Where each stored row goes is found by letting the view place row numbers; the inverse says where it is from.
        rows_F1 = torch.arange(source.shape[0])[:, None]
        order_F = source.parts[0].view(rows_F1).flatten()
        same = torch.equal(order_F, rows_F1[:, 0])
        return self._file.bytes[start:stop], None if same else order_F.argsort()

    def release(self, name: str) -> None:
        self._file.release(*self._range(name))

    def _range(self, name: str) -> tuple[int, int]:
        """Bytes of a matrix stored in one piece."""
        part = self._sources[name].parts[0]
        tensor = self._tensors[part.tensor]
        block = FORMATS[tensor.kind]
        start = tensor.start + part.first // block.values * block.size
        return start, start + prod(self._sources[name].shape) // block.values * block.size

    def close(self) -> None:
        self._file.close()
