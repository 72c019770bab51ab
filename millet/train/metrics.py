"""Lines of JSON, one a step, that stay in step with the checkpoints.

A run that was killed has written lines of steps after its last checkpoint. It computes these steps again, so on resume
the file is cut back to where it was at the checkpoint: no step is told twice.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self


class StepLog:
    """The file at `path`, of which the first `size` bytes are kept. `dropped` has the records that were cut off."""

    def __init__(self, path: Path, size: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        self.dropped = _records(path.read_bytes()[size:])
        self._file = open(path, "r+b")  # noqa: SIM115 - closed by __exit__
        self._file.truncate(size)
        self._file.seek(size)

    def write(self, record: Mapping[str, Any]) -> None:
        """At once visible to whoever reads along."""
        self._file.write(json.dumps(record, ensure_ascii=False, allow_nan=False).encode() + b"\n")
        self._file.flush()

    def sync(self) -> int:
        """Have the system put all of it on disk. The size in bytes, for the checkpoint."""
        os.fsync(self._file.fileno())
        return self._file.tell()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


class NoLog:
    """Of a process that has nothing of its own to tell."""

    dropped: tuple[dict[str, Any], ...] = ()

    def write(self, record: Mapping[str, Any]) -> None:
        pass

    def sync(self) -> int:
        return 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass


def read_log(path: Path) -> list[dict[str, Any]]:
    """The records of a file that may be missing or end in half a line."""
    return _records(path.read_bytes()) if path.exists() else []


def _records(data: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in data.split(b"\n")[:-1]]  # what follows the last line break is not whole
