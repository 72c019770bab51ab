"""Several processes that train one model together, each with a device of its own.

    torchrun --nproc-per-node 2 -m millet train recipe.toml --out runs/mine

Each computes its share of a step's micro-batches, and samples its share of the questions; losses and gradients are
sums over all of them. All run the same code and meet in the functions here, which every process has to call in the same
order. Without torchrun a process is the only one, and they cost nothing.

The first process alone writes and tells (`first`). When one ends, the others cannot go on: `joined` ends them, too.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, NoReturn, TypeVar

import torch

from millet.errors import BadRequest, MilletError
from millet.kernels.cpu import read_cpu

Item = TypeVar("Item")
Result = TypeVar("Result")

FAILED = 2  # the exit code of an error that another process has told
PATIENCE = timedelta(days=7)  # a stage that only the first process works on may take long

_rank, _count = 0, 1
_control: Any = None  # the group for what is not on a GPU


@contextmanager
def joined() -> Iterator[None]:
    """Within it, this process is one of those that torchrun has started. Of the errors that end them one is raised, in
    one process; the others exit."""
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        yield
        return
    store = _join()
    try:
        yield
        wait()
    except MilletError as error:
        _tell(store, error)
    except RuntimeError as error:
        if not is_loss(error):
            raise
        lost = "another process of this run has ended, and so did this one; run the same command to go on"
        _tell(store, MilletError(lost))
    finally:
        _leave()


def is_loss(error: Exception) -> bool:
    """Whether it says that another process is not there any more."""
    if _count == 1:
        return False
    import torch.distributed as dist

    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error))


def count() -> int:
    return _count


def control() -> Any:
    """The group of all processes for what is not on a GPU; None where there is one process."""
    return _control


def rank() -> int:
    """Which of them this process is, from 0 on."""
    return _rank


def first() -> bool:
    """Whether this process writes files and tells how far the run is."""
    return _rank == 0


def check_gpus() -> None:
    """Raises BadRequest where processes would have to share a GPU."""
    beside, gpus = int(os.environ["LOCAL_WORLD_SIZE"]) if _count > 1 else 1, torch.cuda.device_count()
    if beside > gpus:
        raise BadRequest(
            f"{beside} processes on this machine have {gpus} GPUs; start one for each, or set device = "
            '"cpu" in the recipe'
        )


def wait() -> None:
    """Till all are here."""
    gathered(None)


def gathered(item: Item) -> list[Item]:
    """What every process gives, in the order of the processes. Anything that can be pickled."""
    if _count == 1:
        return [item]
    import torch.distributed as dist

    found: list[Any] = [None] * _count
    dist.all_gather_object(found, item, group=_control)
    return found


def total(*values: float) -> list[float]:
    """Each value's sum over all processes."""
    return [sum(parts) for parts in zip(*gathered(values), strict=True)]


def from_first(make: Callable[[], Result]) -> Result:
    """What `make` gives in the first process; the others do not call it."""
    if _count == 1:
        return make()
    import torch.distributed as dist

    made = [make() if first() else None]
    dist.broadcast_object_list(made, src=0, group=_control)
    return made[0]  # type: ignore[return-value]


def deal(items: Sequence[Item]) -> Iterator[tuple[Item, int]]:
    """This process's share of a step's micro-batches, each with its weight.

    Where weights are sharded, all processes have to go through the model equally often: one that would have less to do
    gets the last item once more, with weight 0 in place of 1.
    """
    for start in range(0, len(items), _count):
        mine = start + _rank
        yield (items[mine], 1) if mine < len(items) else (items[-1], 0)


def share(items: Sequence[Item], work: Callable[[Sequence[Item]], list[Result]]) -> list[Result]:
    """`work` done for all items, which gives one result for each: a part of it by each process, and all get all."""
    parts = gathered(work(items[_rank::_count]))
    return [parts[i % _count][i // _count] for i in range(len(items))]


def _join() -> Any:
    """Where errors are noted."""
    global _rank, _count, _control
    import torch.distributed as dist
    from torch.distributed.rendezvous import rendezvous

    local, beside = int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"])
    torch.set_num_threads(max(1, read_cpu().cores // beside))
    gpus = torch.cuda.device_count()
    if gpus:
        torch.cuda.set_device(local % gpus)
    try:
        store, _rank, _count = next(rendezvous("env://"))
        backend = "cpu:gloo,cuda:nccl" if gpus else "gloo"
        dist.init_process_group(backend, store=store, rank=_rank, world_size=_count)
        _control = dist.new_group(backend="gloo", timeout=PATIENCE)
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise MilletError(f"the processes of this run do not find each other ({reason}); look at torchrun's") from error
    return store


def _leave() -> None:
    global _rank, _count, _control
    import torch.distributed as dist

    dist.destroy_process_group()
    _rank, _count, _control = 0, 1, None


def _tell(store: Any, error: MilletError) -> NoReturn:
    """An error of one process ends all, each with an error of its own: the first one is told."""
    try:
        told = store.add("told", 1) > 1
    except RuntimeError:  # the store has ended before us
        told = False
    if told:
        raise SystemExit(FAILED) from error
    raise error
