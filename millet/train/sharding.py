"""Weights of which each process has a part: PyTorch's FSDP2, and its distributed checkpoints.

`shard` splits every weight among the processes; PyTorch then gathers a layer's weights before it is computed, lets go
of them after, and leaves each process the sum of its part's gradients. Such a weight is a `DTensor`: gradients, moments
and master copies are split in the same way, and an optimiser that treats elements one by one need not know of it. What
has to see whole matrices asks for `whole`.

Without several processes nothing is sharded, and nothing of PyTorch's distributed part is imported.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from millet.models.network import Network
from millet.train import devices

MARK = "sharded:"  # and a name: what stands in a state for a tensor that is written elsewhere

_mesh: Any = None  # the processes, as FSDP2 knows them


def shard(network: Network) -> None:
    """Keep only this process's part of each weight. The network's parameters are new objects then.

    What belongs to no layer is gathered from the forward to the end of the backward. That is what the loss needs, which
    uses the head's weight outside of the network.
    """
    global _mesh
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

    device = next(network.parameters()).device
    _mesh = init_device_mesh(device.type, (devices.count(),))
    precision = MixedPrecisionPolicy(reduce_dtype=torch.float32)
    for module in (*network.model.layers, network):
        fully_shard(module, mesh=_mesh, mp_policy=precision)
    for module in network.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)  # the shares of the loss add up
            module.set_force_sum_reduction_for_comms(True)  # gloo knows no other


def release(network: Network) -> None:
    """Before a forward: have all weights gathered anew. A forward without a backward leaves some as they were then."""
    network.reshard()  # type: ignore[operator]


def is_sharded(tensor: Tensor) -> bool:
    """Whether it is a DTensor, which is asked without importing what knows them."""
    return hasattr(tensor, "placements")


def whole(tensor: Tensor) -> Tensor:
    """All of it, in every process; all have to ask together."""
    return tensor.detach().full_tensor() if is_sharded(tensor) else tensor  # type: ignore[attr-defined]


def laid_out(tensor: Tensor, like: Tensor) -> Tensor:
    """A whole tensor, the same in every process, split as `like` is; one that is split already stays as it is."""
    if not is_sharded(like) or is_sharded(tensor):
        return tensor
    from torch.distributed.tensor import distribute_tensor

    tensor = tensor.to(like.device)
    return distribute_tensor(tensor, like.device_mesh, like.placements, src_data_rank=None)  # type: ignore[attr-defined]


def add_gradients(weights: Sequence[Tensor]) -> None:
    """Add up the gradients of weights that every process has whole. Those of sharded weights are sums already."""
    if devices.count() == 1 or any(is_sharded(weight) for weight in weights):
        return
    import torch.distributed as dist

    wanted = devices.total(*(float(weight.grad is not None) for weight in weights))
    works = []
    for weight, processes in zip(weights, wanted, strict=True):
        if not processes:
            continue
        if weight.grad is None:  # of an expert that no token of this process has chosen
            weight.grad = torch.zeros_like(weight)
        works.append(dist.all_reduce(weight.grad, async_op=True))
    for work in works:
        work.wait()


def split(state: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """A state without its sharded tensors, and these by the names that stand in their places."""
    shards: dict[str, Tensor] = {}

    def plain(value: Any, name: str) -> Any:
        if isinstance(value, Mapping):
            return {key: plain(each, f"{name}/{key}") for key, each in value.items()}
        if isinstance(value, (list, tuple)):
            return type(value)(plain(each, f"{name}/{index}") for index, each in enumerate(value))
        if not (isinstance(value, Tensor) and is_sharded(value)):
            return value
        shards[name] = value.detach()
        return MARK + name

    return plain(state, ""), shards


def join(state: Any, shards: Mapping[str, Tensor]) -> Any:
    """The opposite of `split`."""
    if isinstance(state, Mapping):
        return {key: join(value, shards) for key, value in state.items()}
    if isinstance(state, (list, tuple)):
        return type(state)(join(value, shards) for value in state)
    if isinstance(state, str) and state.startswith(MARK):
        return shards[state.removeprefix(MARK)]
    return state


def write(shards: Mapping[str, Tensor], folder: Path) -> None:
    """Each process its parts, into files of its own. Raises OSError or RuntimeError where one of them cannot."""
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.filesystem import FileSystemWriter
    from torch.distributed.checkpoint.state_dict_saver import save

    try:
        save(dict(shards), storage_writer=FileSystemWriter(folder), process_group=devices.control())
    except CheckpointException as error:  # it is no Exception
        raise next(iter(error.failures.values()))[0] from error


def read(folder: Path) -> dict[str, Tensor]:
    """What any number of processes has written, split among those of now: whole where that is one."""
    from torch.distributed.checkpoint.filesystem import FileSystemReader
    from torch.distributed.checkpoint.metadata import TensorStorageMetadata
    from torch.distributed.checkpoint.state_dict_loader import load

    reader = FileSystemReader(folder)
    shards: dict[str, Tensor] = {}
    for name, entry in reader.read_metadata().state_dict_metadata.items():
        assert isinstance(entry, TensorStorageMetadata), "only tensors are written here"
        shards[name] = empty_shards(entry.size, entry.properties.dtype)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")  # one process alone is no mistake
        load(dict(shards), storage_reader=reader, process_group=devices.control(), no_dist=devices.count() == 1)
    return shards


def empty_shards(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """A tensor without values, split among the processes."""
    if devices.count() == 1:
        return torch.empty(shape, dtype=dtype)
    from torch.distributed.tensor import Shard, empty

    return empty(*shape, dtype=dtype, device_mesh=_mesh, placements=[Shard(0)])
