"""Where weights come from, and how they get into a network.

A network is built without memory, on PyTorch's meta device; then `fill` allocates its parameters and has each read into
its place. So the peak is the model's size plus a few pieces of a file.
"""

import re
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from millet.errors import BadWeights
from millet.kernels.heap import release_freed
from millet.kernels.linear import LinearGroup
from millet.kernels.matrix import GGUF_FORMATS, Matrix
from millet.kernels.native.abi import Format
from millet.models.config import ModelConfig
from millet.models.network import Network, build

READERS = 8  # threads; more would only wait for memory, and each of them holds a piece

# Old Llama checkpoints carry the frequencies that the configuration already determines.
LAYER = re.compile(r"model\.layers\.(\d+)\.")
IGNORED = re.compile(r".*\.rotary_emb\.inv_freq")


class Weights(Protocol):
    """Named tensors in some file format, under the names that Hugging Face gives them."""

    source: str
    """What to call them in an error message."""

    shapes: Mapping[str, tuple[int, ...]]

    def read(self, name: str, out: Tensor) -> None:
        """Decode the tensor `name` into `out`, which has its shape and any floating type and device."""
        ...

    def kind(self, name: str) -> str:
        """The GGUF type in which `name` is stored, or the safetensors one."""
        ...

    def raw(self, name: str) -> tuple[Tensor, Tensor | None] | None:
        """The bytes of the matrix `name` as they are stored, row after row, and which of those rows each row of the
        matrix is (None: the same); None where it is not stored as one matrix."""
        ...

    def release(self, name: str) -> None:
        """Give back the memory behind what `raw` returned."""
        ...

    def close(self) -> None: ...


def agreed(config: ModelConfig, weights: Weights) -> ModelConfig:
    """The configuration as far as the weights bear it out; call it before building anything of the size it says.

    Drops MTP modules if none of their weights are there: many checkpoints leave them out. Raises BadWeights when there
    are fewer layers or experts than it says.
    """
    last = f"model.layers.{config.num_layers - 1}."
    if f"{last}input_layernorm.weight" not in weights.shapes:
        raise BadWeights(f"{weights.source} has fewer than {config.num_layers} layers; get the whole model again")
    routed = config.moe if config.moe and config.num_layers > config.moe.first_dense_layers else None
    experts = routed.num_experts if routed else 0
    if experts and f"{last}mlp.experts.{experts - 1}.gate_proj.weight" not in weights.shapes:
        raise BadWeights(f"{weights.source} has fewer than {experts} experts; get the whole model again")
    prefix = f"model.layers.{config.num_layers}."  # of the first module
    if config.mtp_layers == 0 or any(name.startswith(prefix) for name in weights.shapes):
        return config
    return replace(config, mtp_layers=0, hf=config.hf | {"num_nextn_predict_layers": 0})


def unfilled(config: ModelConfig) -> Network:
    """The network on the meta device: shapes and names, no memory."""
    with torch.device("meta"), _NoRandomValues():
        return build(config)


class _NoRandomValues(TorchFunctionMode):
    """Leaves out the random initial values: on the meta device they are nothing, but the first one makes PyTorch import
    its compiler, which takes longer than loading a small model."""

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", "") == "torch.nn.init":
            return kwargs["tensor"]
        return func(*args, **kwargs)


def fill(
    network: Network,
    weights: Weights,
    dtype: torch.dtype,
    device: torch.device | str,
    *,
    pack: bool = False,
    formats: Mapping[str, Format] | None = None,
    packed: Mapping[str, Matrix] | None = None,
    on_weights: Callable[[int, int], None] | None = None,
) -> float:
    """Give every parameter of a network on the meta device its memory and its values.

    The router's correction bias stays fp32, because balancing moves it by less than bf16 resolves. With `pack`, weights
    are laid out for inference layer by layer: packing holds a second copy for a moment, and that of the largest, the
    output head, comes while the others are not there yet. `formats` says which weights to pack in another format than
    fp32 (packing.py); those that the file has in it are moved there and never unpacked, and those in `packed` are taken
    from there. on_weights: told how many weights have come, and of how many, layer by layer. Returns the
    seconds that packing took. Raises BadWeights when a parameter is missing, has another shape
    than the configuration says, or has no place in the network.
    """
    parameters = dict(network.named_parameters())  # what is shared, under its first name only
    check(network, parameters, weights)
    formats, packed, seconds = formats or {}, packed or {}, 0.0
    places = group_places(network)
    by_module = {id(places[name][2]): kept for name, kept in formats.items()}
    sizes = {name: parameter.numel() for name, parameter in parameters.items()}
    come, whole = 0, sum(sizes.values())
    for names in _parts(parameters):
        filled = {}
        started = time.perf_counter()
        for name in names:
            if name in packed:
                group, index, _ = places[name]
                group.adopt(index, packed[name])
                continue
            if name in formats and _adopt(weights, name, formats[name], places[name]):
                continue
            exact = name.endswith("e_score_correction_bias")
            shape = parameters[name].shape
            filled[name] = torch.empty(shape, dtype=torch.float32 if exact else dtype, device=device)
        seconds += time.perf_counter() - started
        _in_parallel(lambda item: weights.read(*item), filled.items())
        for name, values in filled.items():
            owner, _, attribute = name.rpartition(".")
            wanted = parameters[name].requires_grad
            setattr(network.get_submodule(owner), attribute, nn.Parameter(values, requires_grad=wanted))
        del filled
        if pack:
            started = time.perf_counter()
            for group in dict.fromkeys(places[name][0] for name in names if name in places):
                group.pack(lambda module: by_module.get(id(module), Format.F32))
            seconds += time.perf_counter() - started
            release_freed()
        come += sum(sizes[name] for name in names)
        if on_weights is not None:
            on_weights(come, whole)
    return seconds


def group_places(network: Network) -> dict[str, tuple[LinearGroup, int, Any]]:
    """The weights that are packed, by name: their group, their place in it, and the module that has them."""
    names = {id(module): name for name, module in network.named_modules()}
    return {
        f"{names[id(module)]}.weight": (group, index, module)
        for group in network.groups()
        for index, module in enumerate(group.modules)
    }


def _adopt(weights: Weights, name: str, format: Format, place: tuple[LinearGroup, int, Any]) -> bool:
    """Move a matrix from the file into the packed layout, if it is stored in this format and in one piece."""
    found = weights.raw(name) if GGUF_FORMATS.get(weights.kind(name)) is format else None
    if found is None:
        return False
    rows, columns = weights.shapes[name]
    group, index, _ = place
    group.adopt(index, Matrix.from_gguf(found[0], weights.kind(name), (rows, columns), found[1]))
    weights.release(name)
    return True


def _parts(names: Iterable[str]) -> list[list[str]]:
    """The two ends of the model first, then its layers one by one."""
    layers: dict[int, list[str]] = {}
    for name in names:
        layer = LAYER.match(name)
        layers.setdefault(int(layer[1]) if layer else -1, []).append(name)
    return [layers[number] for number in sorted(layers)]


def _in_parallel(function: Callable[[Any], None], items: Iterable[Any]) -> None:
    """One tensor per thread, each with PyTorch's own threads off: its parallel loops over pieces of this size wait for
    each other so often that one busy core makes them many times slower."""
    threads = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(min(threads, READERS), initializer=torch.set_num_threads, initargs=(1,)) as pool:
            for _ in pool.map(function, items):
                pass
    finally:
        torch.set_num_threads(threads)  # for threads yet to start: the setting is global for them


def check(network: Network, parameters: Mapping[str, Tensor], weights: Weights) -> None:
    missing = [name for name in parameters if name not in weights.shapes]
    if missing:
        raise BadWeights(f"{weights.source} lacks {_first(missing)}; get the whole model again")
    for name, parameter in parameters.items():
        if tuple(parameter.shape) != weights.shapes[name]:
            found, expected = _by(weights.shapes[name]), _by(parameter.shape)
            raise BadWeights(
                f"{name} in {weights.source} is {found} but the configuration says {expected}; "
                "get weights and configuration of the same model"
            )
    # Copies of shared parameters (a tied output head, what MTP modules share) may be there or not.
    known = network.state_dict().keys() | {"lm_head.weight"}
    unexpected = [name for name in weights.shapes if name not in known and not _ignorable(name, network.config)]
    if unexpected:
        raise BadWeights(
            f"{weights.source} has weights that the configuration does not know: {_first(unexpected)}; "
            "get weights and configuration of the same model"
        )


def _ignorable(name: str, config: ModelConfig) -> bool:
    """Old buffers, and the MTP modules of a checkpoint whose configuration does not mention them."""
    layer = LAYER.match(name)
    beyond = config.mla is not None and layer is not None and int(layer[1]) >= config.num_layers + config.mtp_layers
    return beyond or IGNORED.fullmatch(name) is not None


def _first(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


def _by(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
