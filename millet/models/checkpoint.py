"""Hugging Face model directories: safetensors in (`SafetensorsWeights`) and a whole directory out (`save`).

A safetensors file (github.com/huggingface/safetensors) is the length of a JSON header, the header, and the bytes it
describes. Large models are several such files and an index of which tensor is in which.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from millet.errors import BadWeights, MilletError, UnsupportedModel
from millet.kernels.dequantize import dequantize_fp8_blocks
from millet.models.mapped_file import PIECE, MappedFile, read_values

if TYPE_CHECKING:
    from millet.models.model import Model

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
BYTES = {"F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1}
NAMES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
SCALE = "_scale_inv"  # DeepSeek's FP8: `X.weight` has its factors in `X.weight_scale_inv`

CONFIGURATIONS = ("config.json", "adapter_config.json")  # one of which every model directory has

# What a model directory consists of. `save` replaces a directory only if it holds nothing else.
MODEL_FILES = ("*.safetensors", "*.json", "*.jinja", "*.txt", "*.model", "*.md", "LICENSE*", "NOTICE*", ".git*")


@dataclass(frozen=True, slots=True)
class _Stored:
    file: MappedFile
    dtype: str
    shape: tuple[int, ...]
    start: int


class SafetensorsWeights:
    """The weights of a model directory. `fp8_block` is `quantization_config.weight_block_size`.

    Raises UnsupportedModel when they are not safetensors or of a type Millet does not read; BadWeights when a file is
    missing, cut short or corrupt.
    """

    def __init__(self, directory: Path, fp8_block: tuple[int, int] = (128, 128)) -> None:
        self.source = str(directory)
        self._fp8_block = fp8_block
        self._files = [MappedFile(path) for path in _files(directory)]
        self._stored = {name: stored for file in self._files for name, stored in _header(file).items()}
        weights = {name: stored for name, stored in self._stored.items() if not name.endswith(SCALE)}
        self.shapes: Mapping[str, tuple[int, ...]] = {name: stored.shape for name, stored in weights.items()}

    def read(self, name: str, out: Tensor) -> None:
        stored = self._stored[name]
        if stored.dtype == "F8_E4M3":
            self._read_fp8(name, stored, out)
        else:
            read_values(stored.file, stored.start, stored.dtype, out)

    def kind(self, name: str) -> str:
        return self._stored[name].dtype

    def raw(self, name: str) -> tuple[Tensor, Tensor | None] | None:
        stored = self._stored[name]
        size = prod(stored.shape) * BYTES[stored.dtype]
        return (stored.file.bytes[stored.start : stored.start + size], None) if len(stored.shape) == 2 else None

    def release(self, name: str) -> None:
        stored = self._stored[name]
        stored.file.release(stored.start, stored.start + prod(stored.shape) * BYTES[stored.dtype])

    def _read_fp8(self, name: str, stored: _Stored, out: Tensor) -> None:
        rows, columns = stored.shape if len(stored.shape) == 2 else (0, 0)
        block_rows, block_columns = self._fp8_block
        scale = self._stored.get(name + SCALE)
        if scale is None or scale.shape != (-(-rows // block_rows), -(-columns // block_columns)):
            raise BadWeights(
                f"{name} in {stored.file.path} is FP8 without matching {name.rpartition('.')[2]}{SCALE} "
                f"for blocks of {block_rows} x {block_columns}; get the whole model again"
            )
        factors = torch.empty(scale.shape)
        read_values(scale.file, scale.start, scale.dtype, factors)
        bands = max(1, PIECE // (block_rows * columns))  # of whole blocks, at a time
        for band in range(0, len(factors), bands):
            first, last = band * block_rows, min((band + bands) * block_rows, rows)
            start, stop = stored.start + first * columns, stored.start + last * columns
            weight = stored.file.bytes[start:stop].view(torch.float8_e4m3fn).view(-1, columns)
            values = torch.empty(weight.shape)
            dequantize_fp8_blocks(weight, factors[band : band + bands], values, self._fp8_block)
            out[first:last].copy_(values)
            stored.file.release(stored.start, stop)

    def close(self) -> None:
        for file in self._files:
            file.close()


def _files(directory: Path) -> list[Path]:
    """The weight files of a directory, each of which is there."""
    if (directory / SINGLE).exists():
        return [directory / SINGLE]
    if (directory / INDEX).exists():
        try:
            shards = sorted(set(json.loads((directory / INDEX).read_bytes())["weight_map"].values()))
            files = [directory / Path(shard).name for shard in shards]
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise BadWeights(f"{directory / INDEX} cannot be read; get it again") from error
        for file in files:
            if not file.exists():
                raise BadWeights(f"{directory} lacks {file.name}, which its index names; get the whole model again")
        return files
    if any(directory.glob("pytorch_model*.bin")):
        raise UnsupportedModel(
            f"{directory} has its weights as pytorch_model.bin, which can run code when read; "
            "load it with transformers and save it as safetensors"
        )
    raise BadWeights(f"{directory} has no {SINGLE}; get the whole model again")


def _header(file: MappedFile) -> dict[str, _Stored]:
    corrupt = BadWeights(f"{file.path} is cut short or corrupt; get it again")
    size = len(file.buffer)
    length = int.from_bytes(file.buffer[:8], "little")
    if 8 + length > size:
        raise corrupt
    found = {}
    try:
        header = json.loads(file.buffer[8 : 8 + length])
        header.pop("__metadata__", None)
        for name, entry in header.items():
            begin, end = entry["data_offsets"]
            shape = tuple(entry["shape"])
            if entry["dtype"] not in BYTES:
                if name.endswith(".rotary_emb.inv_freq"):
                    continue
                raise UnsupportedModel(
                    f"{name} in {file.path} has type {entry['dtype']}, which is not supported; "
                    f"get the model in one of {', '.join(BYTES)}"
                )
            if begin < 0 or 8 + length + end > size or end - begin != prod(shape) * BYTES[entry["dtype"]]:
                raise corrupt
            found[name] = _Stored(file, entry["dtype"], shape, 8 + length + begin)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise corrupt from error
    return found


def save(model: Model, directory: str | Path, max_shard_bytes: int = 4 << 30) -> None:
    """Write the model as a Hugging Face directory, all of it or nothing.

    It is written beside its place and renamed when it is whole and on disk; a model that was there is replaced. The
    weights keep the type they have in memory. A module for multi-token prediction becomes layer `num_hidden_layers + k`
    with its copies of embedding and head, as DeepSeek publishes it.

    Raises MilletError when the disk is full or not writable, or when something else than a model is at `directory`.
    """
    tensors = model.network.state_dict()
    with written_whole(directory, sum(tensor.nbytes for tensor in tensors.values())) as temporary:
        _write_weights(temporary, tensors, max_shard_bytes)
        write_json(temporary / "config.json", _config(model))
        write_json(temporary / "generation_config.json", _generation_config(model))
        _write_tokenizer(temporary, model)


@contextmanager
def written_whole(directory: str | Path, needed: int) -> Iterator[Path]:
    """A directory to write a model's files into, which then takes the place of `directory`, all of it or nothing.

    needed: bytes that the files will have. Raises MilletError as `save` does.
    """
    directory = Path(directory).expanduser().resolve()
    _check_replaceable(directory)
    temporary = directory.with_name(f".{directory.name}.saving-{secrets.token_hex(4)}")
    try:
        temporary.mkdir(parents=True)
        _check_space(temporary, needed)
        yield temporary
        for path in (*temporary.iterdir(), temporary):
            _sync(path)
        _replace(directory, temporary)
    except OSError as error:
        raise MilletError(
            f"cannot save to {directory}: {error.strerror or error}; make room or choose another place"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _check_replaceable(directory: Path) -> None:
    if not directory.exists():
        return
    foreign = None
    if not directory.is_dir():
        foreign = "is a file"
    elif not any((directory / name).exists() for name in CONFIGURATIONS) and any(directory.iterdir()):
        foreign = "has something else in it than a model"
    else:
        others = [p.name for p in directory.iterdir() if p.is_dir() or not any(map(p.match, MODEL_FILES))]
        if others:
            foreign = f"has {others[0]} beside a model"
    if foreign:
        raise MilletError(f"not saving over {directory}: it {foreign}; choose a new directory")


def _check_space(directory: Path, needed: int) -> None:
    free = shutil.disk_usage(directory).free
    if free < needed:
        raise OSError(f"{needed / 1e9:.2f} GB are needed and {free / 1e9:.2f} GB are free")


def _replace(directory: Path, temporary: Path) -> None:
    """Put `temporary` in the place of `directory`, whatever was there before kept until the new one is in place."""
    if directory.exists():
        old = temporary.with_name(temporary.name + ".old")
        directory.rename(old)
        try:
            temporary.rename(directory)
        except OSError:
            old.rename(directory)
            raise
        shutil.rmtree(old, ignore_errors=True)
    else:
        temporary.rename(directory)
    _sync(directory.parent)


def _write_weights(directory: Path, tensors: Mapping[str, Tensor], max_shard_bytes: int) -> None:
    shards = list(_shards(tensors, max_shard_bytes))
    if len(shards) == 1:
        write_safetensors(directory / SINGLE, shards[0])
        return
    files = [f"model-{i:05}-of-{len(shards):05}.safetensors" for i in range(1, len(shards) + 1)]
    for file, shard in zip(files, shards, strict=True):
        write_safetensors(directory / file, shard)
    total = sum(tensor.nbytes for tensor in tensors.values())
    places = {name: file for file, shard in zip(files, shards, strict=True) for name in shard}
    write_json(directory / INDEX, {"metadata": {"total_size": total}, "weight_map": places})


def _shards(tensors: Mapping[str, Tensor], limit: int) -> Iterator[dict[str, Tensor]]:
    """Tensors in their order, as many to a shard as stay within the limit."""
    shard: dict[str, Tensor] = {}
    size = 0
    for name, tensor in tensors.items():
        if shard and size + tensor.nbytes > limit:
            yield shard
            shard, size = {}, 0
        shard[name] = tensor
        size += tensor.nbytes
    yield shard


def write_safetensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """One tensor at a time, so that nothing is held twice but the one being copied from another device."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    position = 0
    for name, tensor in tensors.items():
        offsets = [position, position + tensor.nbytes]
        header[name] = {"dtype": NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": offsets}
        position = offsets[1]
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the tensors begin aligned
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors.values():
            file.write(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)


def _config(model: Model) -> dict[str, Any]:
    config = {key: value for key, value in model.config.hf.items() if key not in ("quantization_config", "dtype")}
    return config | {"torch_dtype": str(model.dtype).removeprefix("torch.")}  # which transformers 4 and 5 read


def _generation_config(model: Model) -> dict[str, Any]:
    config: dict[str, Any] = {"bos_token_id": model.config.bos_token_id, "eos_token_id": list(model.eos_token_ids)}
    config["pad_token_id"] = model.config.hf.get("pad_token_id")
    config["do_sample"] = model.sampling_defaults.get("temperature", 0.0) > 0
    return {key: value for key, value in config.items() if value not in (None, [])} | model.sampling_defaults


def _write_tokenizer(directory: Path, model: Model) -> None:
    try:
        model.tokenizer.save(directory)
    except Exception as error:  # the tokenizers library raises bare Exception when the disk is full
        raise OSError(str(error)) from error
    if model.template is not None and "chat_template" not in model.tokenizer.config:
        (directory / "chat_template.jinja").write_text(model.template.source, encoding="utf-8")


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _sync(path: Path) -> None:
    """Have the system put a file, or a directory's list of files, on disk."""
    if os.name == "nt" and path.is_dir():  # where a directory cannot be opened
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
