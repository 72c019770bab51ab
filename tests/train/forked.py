"""Processes forked from a server that has imported everything: importing takes longer than a toy's training."""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerProcess
from typing import Any

import pytest

from millet.train.recipe import KINDS

PATIENCE = 300  # seconds that a run of seconds may take on a machine with much else to do

_PROCESSES = multiprocessing.get_context("forkserver")
_STAGES = [module for module, _ in KINDS.values()]
# PyTorch imports torch._dynamo with a process's first optimiser, and torch.distributed.fsdp where weights are sharded.
_TORCH = ["torch._dynamo", "torch.distributed.fsdp"]
_PROCESSES.set_forkserver_preload(["tests.train.faulty", "millet.train.chain", *_STAGES, *_TORCH])


@dataclass
class Forked:
    """Processes that share their standard output and error."""

    processes: list[ForkServerProcess]
    said: Connection
    store: Any = None  # which they meet at; it ends with this object

    def ended(self) -> str:
        """What they said till the last one's end."""
        deadline, said = time.monotonic() + PATIENCE, b""
        while wait([self.said], max(0.0, deadline - time.monotonic())):
            if not (piece := os.read(self.said.fileno(), 1 << 16)):
                break
            said += piece
        else:
            for process in self.processes:
                process.kill()
            pytest.fail(f"it did not end: {said.decode(errors='replace')}")
        for process in self.processes:
            process.join()
        return said.decode()

    @property
    def exit_codes(self) -> list[int | None]:
        """Below 0: minus the signal that ended it."""
        return [process.exitcode for process in self.processes]


def forked(target: Callable[..., object], *arguments: object) -> Forked:
    """The function, of a module that can be imported, in a process of its own."""
    return _start(target, arguments, [{}])


def together(target: Callable[..., object], *arguments: object, count: int = 2) -> Forked:
    """The function in each of several processes that find each other as those of torchrun do, at a store that is not
    theirs."""
    from torch.distributed import TCPStore

    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    common = {
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(store.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
    }
    ranks = [{**common, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(count)]
    found = _start(target, arguments, ranks)
    found.store = store
    return found


def _start(target: Callable[..., object], arguments: Any, each: list[dict[str, str]]) -> Forked:
    receiver, sender = _PROCESSES.Pipe(duplex=False)
    processes = [_PROCESSES.Process(target=_run, args=(sender, more, target, arguments)) for more in each]
    for process in processes:
        process.start()
    sender.close()
    return Forked(processes, receiver)


def _run(
    sender: Connection, more: dict[str, str], target: Callable[..., object], arguments: tuple[object, ...]
) -> None:
    os.environ |= more
    for descriptor in (1, 2):
        os.dup2(sender.fileno(), descriptor)
    sender.close()
    sys.stdout, sys.stderr = (os.fdopen(descriptor, "w", buffering=1, closefd=False) for descriptor in (1, 2))
    target(*arguments)
