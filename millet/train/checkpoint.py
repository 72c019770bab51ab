"""Checkpoints: all that a run needs to go on exactly where it was, each a folder that is there whole or not at all.

A checkpoint is written beside its place, put on disk, and renamed. The last two are kept, so that one that a failing
disk has spoilt is not the end of the run. Of several processes the first writes what all have; of sharded tensors each
writes its part.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from millet.errors import MilletError
from millet.train import devices, sharding

CHECKPOINTS = "checkpoints"  # the folder in a stage's
KEPT = 2
STATE, SHARDS, DIGEST = "state.pt", "shards", "state.sha256"
PREFIX = "step-"


class Checkpoints:
    """The checkpoints of one stage, in a folder of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(self, step: int, state: Mapping[str, Any]) -> None:
        """state: tensors, numbers, text, None, and lists and dicts of them. step: how many steps are done.

        Raises MilletError when the disk is full or not writable; checkpoints that were there stay.
        """
        temporary = self.folder / f".{PREFIX}{step:08}.writing"
        plain, shards = sharding.split(state)
        try:
            devices.from_first(lambda: self._begin(temporary))
            if shards:
                sharding.write(shards, temporary / SHARDS)
            devices.from_first(lambda: self._finish(temporary, plain, step))
        except (OSError, RuntimeError) as error:  # torch.save says RuntimeError when the disk is full
            shutil.rmtree(temporary, ignore_errors=True)
            if devices.is_loss(error):
                raise
            raise MilletError(self._cannot_save(step, error)) from error

    def latest(self) -> tuple[int, dict[str, Any]] | None:
        """(steps done, state) of the last checkpoint that is whole, None where there is none.

        Raises MilletError where there are checkpoints and none can be read.
        """
        step = devices.from_first(self._last_whole)
        if step is None:
            return None
        folder = self.folder / f"{PREFIX}{step:08}"
        state = torch.load(folder / STATE, map_location="cpu", weights_only=True, mmap=True)
        return step, sharding.join(state, sharding.read(folder / SHARDS)) if (folder / SHARDS).exists() else state

    def steps(self) -> list[int]:
        """Those that are there, in order."""
        return sorted(int(path.name.removeprefix(PREFIX)) for path in self.folder.glob(f"{PREFIX}*"))

    def _begin(self, temporary: Path) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._clear()
        temporary.mkdir()

    def _finish(self, temporary: Path, plain: Mapping[str, Any], step: int) -> None:
        torch.save(dict(plain), temporary / STATE)
        (temporary / DIGEST).write_text(_digest(temporary) + "\n", encoding="ascii")
        for path in (*temporary.rglob("*"), temporary):
            sync(path)
        final = self.folder / f"{PREFIX}{step:08}"
        shutil.rmtree(final, ignore_errors=True)  # one that could not be read
        temporary.rename(final)
        sync(self.folder)
        for old in self.steps()[:-KEPT]:
            shutil.rmtree(self.folder / f"{PREFIX}{old:08}", ignore_errors=True)

    def _last_whole(self) -> int | None:
        steps = self.steps()
        for step in reversed(steps):
            folder = self.folder / f"{PREFIX}{step:08}"
            try:
                if _digest(folder) == (folder / DIGEST).read_text(encoding="ascii").strip():
                    return step
            except OSError:
                continue
        if steps:
            raise MilletError(f"no checkpoint in {self.folder} can be read; the disk has lost data: begin a new --out")
        return None

    def _clear(self) -> None:
        """What a run that was killed had half written."""
        for path in self.folder.glob(f".{PREFIX}*"):
            shutil.rmtree(path, ignore_errors=True)

    def _cannot_save(self, step: int, error: Exception) -> str:
        reason = (getattr(error, "strerror", None) or str(error)).splitlines()[0]
        kept = self.steps()
        last = f"the last checkpoint, of step {kept[-1]}, is whole" if kept else "there is no checkpoint yet"
        return (
            f"step {step} could not be saved to {self.folder} ({reason}); {last}: make room and run the same command "
            "to go on"
        )


def weights_hash(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over weights in the order of their names: name, type, shape, bytes. All processes ask together."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(sharding.whole(tensor).detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def file_hash(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest(folder: Path) -> str:
    """Of a checkpoint: its state's, and where there are shards, of the hashes of all files together."""
    state = file_hash(folder / STATE)
    if not (folder / SHARDS).exists():
        return state
    hashes = [state, *(file_hash(path) for path in sorted((folder / SHARDS).iterdir()))]
    return hashlib.sha256("\n".join(hashes).encode()).hexdigest()


def sync(path: Path) -> None:
    """Have the system put a file, or a folder's list of files, on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomically(path: Path, text: str) -> None:
    """A file that is there whole, as it was or as it is to be, whatever happens."""
    temporary = path.with_name(f".{path.name}.writing")
    temporary.write_text(text, encoding="utf-8")
    sync(temporary)
    temporary.rename(path)
    sync(path.parent)
