"""The models on this machine: where they are, and how one gets there.

    HOME/models/NAME/            one directory for each model that is complete
    HOME/partial/NAME/SOURCE/    what has arrived so far of one that is not
    HOME/partial/NAME.lock       held by the one process that is pulling it

A model is moved into `models` as a whole, so whatever is there is complete, and finding it needs no network. Of a model
that is an adapter, the base is kept here; the adapter is part of the package.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from millet.errors import DownloadFailed
from millet.models.catalog import CatalogEntry, catalog, unknown
from millet.models.progress import Progress
from millet.models.sources import is_source, parse

_ORIGIN = "origin.json"  # in every model's directory: its name and the source that gave it


def home() -> Path:
    """Where Millet keeps what it downloads: MILLET_HOME, or ~/.cache/millet."""
    return Path(os.environ.get("MILLET_HOME") or "~/.cache/millet").expanduser().absolute()


def locate(name: str) -> Path | None:
    """The model's GGUF file or Hugging Face directory, or None where it has yet to be pulled. Never uses the network.

    `name` is a name from the catalog, a source (`hf:ORG/NAME`), or a path. Of an adapter in the catalog it is the
    adapter's directory, and None where its base is not here. Raises UnknownModel for any other name.
    """
    entry = catalog().get(name)
    if entry is not None and entry.base is not None:
        return entry.adapter if locate(entry.base) else None
    if name in catalog() or is_source(name):
        return _weights(home() / "models" / _directory(name))
    path = Path(name).expanduser()
    if not path.exists():
        raise unknown(name)
    return path.absolute()


def pull(name: str, progress: Progress | None = None) -> Path:
    """As `locate`, but a model that is not here is fetched: from each source in turn, resumed, verified, kept whole.

    `progress(what, bytes done, bytes in all or None)` is called often, on this thread. Two pulls of one model do not
    fetch it twice: the second waits and finds it. Raises DownloadFailed or UnknownModel; an interrupted pull resumes.
    """
    present = locate(name)
    if present is not None:
        return present
    entry = catalog().get(name) or CatalogEntry(name, sources=(str(parse(name)),))
    if entry.base is not None and entry.adapter is not None:
        pull(entry.base, progress)
        return entry.adapter
    report = progress or _silent
    try:
        (home() / "partial").mkdir(parents=True, exist_ok=True)
        with _locked(home() / "partial" / f"{_directory(name)}.lock", name, report):
            return locate(name) or _pull(entry, report)
    except OSError as error:
        raise DownloadFailed(_local_trouble(name, error)) from error


def pulled() -> dict[str, str]:
    """The models that were pulled to this machine: the source that gave each one, by the name it was pulled by."""
    origins = (json.loads(path.read_text("utf-8")) for path in sorted(home().glob(f"models/*/{_ORIGIN}")))
    return {origin["name"]: origin["source"] for origin in origins}


def _pull(entry: CatalogEntry, progress: Progress) -> Path:
    from millet.models.fetch import fetch  # here, so that finding a model does not pay for an HTTP client

    staging = home() / "partial" / _directory(entry.name)
    final = home() / "models" / _directory(entry.name)
    failures = []
    for text in entry.sources:
        directory = staging / _directory(text)
        directory.mkdir(parents=True, exist_ok=True)
        try:
            fetch(entry, parse(text), directory, progress)
        except DownloadFailed as error:
            failures.append(error)
            continue
        (directory / _ORIGIN).write_text(json.dumps({"name": entry.name, "source": text}) + "\n", "utf-8")
        final.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(final, ignore_errors=True)  # a directory that somebody has emptied
        directory.rename(final)
        shutil.rmtree(staging, ignore_errors=True)  # what other sources left
        path = _weights(final)
        assert path is not None
        return path
    if len(failures) == 1:
        raise failures[0]
    tried = " | ".join(f"{text}: {error}" for text, error in zip(entry.sources, failures, strict=True))
    raise DownloadFailed(f"no source gave {entry.name}: {tried}") from failures[-1]


def _weights(directory: Path) -> Path | None:
    if (directory / "config.json").exists():
        return directory
    return next(iter(sorted(directory.glob("*.gguf"))), None)


def _directory(name: str) -> str:
    """A file name for a model's name or source: no separators, and never one that is hidden."""
    return re.sub(r"[^\w.@=+-]+", "--", name).lstrip(".")


@contextmanager
def _locked(path: Path, name: str, progress: Progress) -> Iterator[None]:
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress(f"waiting for another process that is pulling {name}", 0, None)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _local_trouble(name: str, error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return (
            f"no disk space for {name} in {home()}: {error.strerror}; free some or set MILLET_HOME to another disk, "
            "then pull again (what has arrived is kept)"
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST):
        return f"cannot write to {home()} ({error.strerror}); set MILLET_HOME to a directory that you may write to"
    return f"cannot store {name} in {home()}: {error}; check the disk, or set MILLET_HOME to another directory"


def _silent(what: str, done: int, total: int | None) -> None:
    """No one is watching."""
