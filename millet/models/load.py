"""From a name or a path to a `Model`: find it, see that it fits, read its configuration, tokenizer and weights."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from millet.errors import BadRequest, BadWeights, OutOfMemory, UnknownModel, UnsupportedModel
from millet.kernels.cpu import choose_dtype, read_cpu, read_memory
from millet.kernels.linear import native
from millet.kernels.native.abi import Format
from millet.kernels.native.library import why_not
from millet.models.adapter import CONFIG, AdaptedWeights, Adapter, Factors
from millet.models.catalog import catalog
from millet.models.chat_template import ChatTemplate
from millet.models.checkpoint import CONFIGURATIONS, SafetensorsWeights
from millet.models.config import ModelConfig
from millet.models.gguf import GGUFFile, GGUFWeights
from millet.models.gguf_config import config_from_gguf, ends_from_gguf, sampling_from_gguf
from millet.models.hub import locate, pull
from millet.models.lora import ROUTED, put_beside
from millet.models.model import Model
from millet.models.network import Network
from millet.models.packed_files import WORTHWHILE, keep_packed, open_packed
from millet.models.packing import Quantize, choose_formats, packed_bytes, packed_matrices
from millet.models.tokenizer import Tokenizer
from millet.models.weights import Weights, agreed, fill, unfilled

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

SAMPLING = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")

# Tokens that end a turn in some chat format. One that a model's own template writes ends that model's replies too,
# whether or not its configuration lists it: several releases forget to.
ENDS_OF_TURN = ("<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|end_of_text|>", "<|endoftext|>", "<｜end▁of▁sentence｜>")


@dataclass(frozen=True)
class _Parts:
    """What a model's files hold, before any memory is taken for weights."""

    config: ModelConfig
    weights: Weights
    tokenizer: Tokenizer
    template: str | None
    eos_token_ids: tuple[int, ...]
    sampling: Mapping[str, float] = field(default_factory=dict)


def load(
    name_or_path: str | Path,
    *,
    dtype: str | None = None,
    device: str | None = None,
    quantize: Quantize | None = None,
    on_weights: Callable[[int, int], None] | None = None,
) -> Model:
    """A model by its name in the catalog (pulled first if it is not here), or by its place: a directory, a .gguf file,
    or "hf:org/name". A PEFT directory is its base with the adapter added (adapter.py): summed into its weights, or kept
    beside them where these are not fp32 or bf16 (lora.py).

    device: "cpu", "cuda", ...; by default a GPU where there is one. dtype: "float32", "bfloat16" or "float16"; by
    default bf16 on a GPU, and on a CPU weights stay as the file has them where the native kernels can compute with that
    (packing.py), else fp32. quantize: "q8" or "q4" for fewer bits than that, "off" for fp32.
    on_weights: told how many weights have come, and of how many.
    Raises UnknownModel, UnsupportedModel, BadWeights, OutOfMemory, DownloadFailed.
    """
    name = str(name_or_path)
    if dtype is not None and dtype not in DTYPES:
        raise BadRequest(f"dtype {dtype!r} is unknown; use {', '.join(DTYPES)}")
    place = _device(device)
    path = _find(name)
    adapter = _adapter(path)
    base = _find(adapter.base) if adapter else path
    parts = _from_gguf(base) if base.is_file() else _from_directory(base)
    try:
        config = agreed(parts.config, parts.weights)
        network = unfilled(config)
        formats = _formats(network, parts.weights, dtype, place, quantize)
        parameters = {name: tuple(p.shape) for name, p in network.named_parameters()}
        fp32_bytes = packed_bytes(parameters, formats, 4)
        number = DTYPES[dtype or choose_dtype(place.type, fp32_bytes, read_cpu(), read_memory())]
        formats = formats if number is torch.float32 else {}
        beside: dict[str, Factors] = {}
        if adapter:
            own = _template(path, {}) or parts.template  # one that was taught to think says so there
            weights = AdaptedWeights(parts.weights, adapter)
            if formats:
                beside = {module: f for module, f in adapter.modules.items() if not ROUTED.search(module)}
                weights = weights.without(beside)
                formats = _formats(network, weights, dtype, place, quantize)
            parts = replace(parts, weights=weights, template=own)
        _check_memory(name, packed_bytes(parameters, formats, number.itemsize), number, place)
        keep = bool(formats) and (adapter is None or len(beside) == len(adapter.modules))
        packed = open_packed(base, formats, parts.weights.shapes) if keep else {}
        seconds = fill(
            network, parts.weights, number, place, pack=True, formats=formats, packed=packed, on_weights=on_weights
        )
        if keep and not packed and seconds > WORTHWHILE:
            keep_packed(base, packed_matrices(network, formats))
        for module in put_beside(network, beside).values():
            module.requires_grad_(False)
    finally:
        parts.weights.close()
    return Model(
        name=name if name in catalog() else _called(path),
        path=path,
        config=config,
        network=network.eval(),
        tokenizer=parts.tokenizer,
        template=ChatTemplate(parts.template, parts.tokenizer.special_tokens) if parts.template else None,
        sampling_defaults=_recommended(name, adapter, parts.sampling),
        eos_token_ids=parts.eos_token_ids,
        dtype=number,
        device=place,
        quantised=bool(formats),
        adapter=adapter,
    )


def _called(path: Path) -> str:
    """What people would call it: a stage of training names the folder around its model."""
    return path.parent.name if path.name == "model" else path.name


def restore_base(network: Network, adapter: Adapter) -> None:
    """Give the adapted weights of a plain network, which hold base and adapter, the base's values from its files."""
    path = _find(adapter.base)
    weights = (_from_gguf(path) if path.is_file() else _from_directory(path)).weights
    try:
        with torch.no_grad():
            for module in adapter.modules:
                weights.read(f"{module}.weight", network.get_parameter(f"{module}.weight"))
    finally:
        weights.close()


def _adapter(path: Path) -> Adapter | None:
    """The adapter at this path, if that is what is there."""
    is_adapter = path.is_dir() and (path / CONFIG).exists() and not (path / "config.json").exists()
    return Adapter.read(path) if is_adapter else None


def _recommended(name: str, adapter: Adapter | None, of_file: Mapping[str, float]) -> dict[str, float]:
    """How to sample: the catalog before the model's files. An adapter in the catalog has its own recommendations alone,
    as those for its base were made for another model; any other adapter has its base's."""
    entry = catalog().get(name)
    if entry is not None and entry.base is not None:
        return dict(entry.sampling)
    entry = catalog().get(adapter.base) if adapter else entry
    return {**of_file, **(entry.sampling if entry else {})}


def _formats(
    network: Network, weights: Weights, dtype: str | None, device: torch.device, quantize: Quantize | None
) -> dict[str, Format]:
    """Formats other than fp32 that weights are packed in."""
    on_native = device.type == "cpu" and native()
    if quantize in ("q8", "q4") and not on_native:
        reason = why_not() or f"the model is to run on {device}"
        raise BadRequest(f"quantize={quantize!r} needs the native kernels on a CPU: {reason}")
    if quantize in ("q8", "q4") and dtype not in (None, "float32"):
        raise BadRequest(f"quantize={quantize!r} and dtype={dtype!r} contradict each other; leave one of them out")
    if not on_native or (dtype is not None and quantize is None):
        return {}
    return choose_formats(network, weights, quantize)


def _find(name: str) -> Path:
    path = Path(name).expanduser()
    if name in catalog() or not path.exists():
        path = locate(name) or pull(name)
    if path.is_dir() and not any((path / name).exists() for name in CONFIGURATIONS):
        ggufs = sorted(path.glob("*.gguf"))
        if len(ggufs) > 1:
            raise UnknownModel(f"{path} has {len(ggufs)} .gguf files; name one, for example {ggufs[0]}")
        if not ggufs:
            raise UnknownModel(f"{path} has neither a config.json nor a .gguf file; check the path")
        path = ggufs[0]
    return path


def _device(name: str | None) -> torch.device:
    if name is None:
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise BadRequest(f"device {name!r} is unknown; use cpu or cuda") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise BadRequest(f"device {name!r} was asked for, but PyTorch sees no GPU; use cpu or install PyTorch for CUDA")
    return device


def _check_memory(name: str, needed: int, dtype: torch.dtype, device: torch.device) -> None:
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else read_memory().available
    if needed > free:
        raise OutOfMemory(
            f"the weights of {name} need {needed / 1e9:.1f} GB (based on {str(dtype).removeprefix('torch.')}) and "
            f"{free / 1e9:.1f} GB are free on {device}; close other programs or choose a smaller model"
        )


def _from_gguf(path: Path) -> _Parts:
    gguf = GGUFFile(path)
    config = ModelConfig.from_hf(config_from_gguf(gguf))
    weights = GGUFWeights(gguf)
    tokenizer = Tokenizer.from_gguf(gguf.metadata)
    template = gguf.metadata.get("tokenizer.chat_template")
    ends = _ends(ends_from_gguf(gguf, config.vocab_size), tokenizer, template)
    return _Parts(config, weights, tokenizer, template, ends, sampling_from_gguf(gguf))


def _from_directory(path: Path) -> _Parts:
    hf = _json(path / "config.json")
    config = ModelConfig.from_hf(hf)
    weights = SafetensorsWeights(path, _fp8_block(path, hf))
    settings = _json(path / "tokenizer_config.json", optional=True)
    tokenizer = Tokenizer.from_file(path / "tokenizer.json", settings)
    template = _template(path, settings)
    generation = _json(path / "generation_config.json", optional=True)
    listed = generation.get("eos_token_id")
    listed = listed if isinstance(listed, list) else [] if listed is None else [listed]
    ends = _ends([*listed, *config.eos_token_ids], tokenizer, template)
    sampling = {key: generation[key] for key in SAMPLING if generation.get(key) is not None}
    return _Parts(config, weights, tokenizer, template, ends, sampling)


def _json(path: Path, optional: bool = False) -> dict[str, Any]:
    if optional and not path.exists():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadWeights(f"{path} cannot be read; get it again") from error
    if not isinstance(content, dict):
        raise BadWeights(f"{path} is not an object of names and values; get it again")
    return content


def _fp8_block(path: Path, hf: Mapping[str, Any]) -> tuple[int, int]:
    quantisation = hf.get("quantization_config") or {}
    if quantisation.get("quant_method", "fp8") != "fp8":
        raise UnsupportedModel(
            f"{path} is quantised with {quantisation['quant_method']}, which is not supported; "
            "get it unquantised, in DeepSeek's FP8, or as GGUF"
        )
    rows, columns = quantisation.get("weight_block_size") or (128, 128)
    return rows, columns


def _template(path: Path, settings: Mapping[str, Any]) -> str | None:
    """The chat template: a file of its own, or in the tokenizer's settings, where it may be one of several by name."""
    if (path / "chat_template.jinja").exists():
        return (path / "chat_template.jinja").read_text(encoding="utf-8")
    template = settings.get("chat_template")
    if isinstance(template, list):
        return {entry["name"]: entry["template"] for entry in template}.get("default")
    return template


def _ends(listed: Iterable[int], tokenizer: Tokenizer, template: str | None) -> tuple[int, ...]:
    """What ends a reply: the ids that the files list, the tokenizer's EOS, and the end of a turn in the template."""
    named = [end for end in ENDS_OF_TURN if template is not None and end in template]
    if tokenizer.eos_token is not None:
        named.append(tokenizer.eos_token)
    ids = (tokenizer.id_of(text) for text in named)
    return tuple(dict.fromkeys([*listed, *(i for i in ids if i is not None)]))
