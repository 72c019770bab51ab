"""One remote file becomes one local file: resumed where it stopped, verified, and visible only when whole.

Bytes arrive in `NAME.part`, which survives an interrupt. A resumed transfer asks for the missing range only if the file
is still the same one (If-Range with the ETag or date kept in `NAME.part.tag`); a server that cannot resume sends the
whole file again. Only a file whose size and checksum are right is renamed to `NAME`, in one step.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlsplit

import httpx2 as httpx

from millet import __version__
from millet.errors import DownloadFailed
from millet.models.progress import Progress

PATIENCE = 5  # transfers in a row that may bring nothing new before a download is given up
BACKOFF = 0.5  # seconds before the second try; doubles with every further one


@dataclass(frozen=True)
class RemoteFile:
    """A file to fetch and what is known of it: `name` on disk, `url` (http, https or file), `size` in bytes, `sha256`.

    `git_sha1` is git's own blob hash, which Hugging Face publishes for the small files that it keeps outside LFS.
    """

    name: str
    url: str
    size: int | None = None
    sha256: str | None = None
    git_sha1: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


class _Interrupted(Exception):
    """The transfer stopped early, and the next try may well go on."""


def open_client() -> httpx.Client:
    """An HTTP client with the proxies and certificates of this system. Raises DownloadFailed if they make no sense."""
    try:
        return httpx.Client(
            follow_redirects=True,
            timeout=httpx.Timeout(30.0, connect=10.0),
            headers={"User-Agent": f"millet/{__version__}", "Accept-Encoding": "identity"},
        )
    except (ValueError, OSError) as error:
        raise DownloadFailed(
            f"the proxy or certificate settings of this system cannot be used ({error}); correct HTTPS_PROXY, "
            "ALL_PROXY or SSL_CERT_FILE"
        ) from error


def download(client: httpx.Client, file: RemoteFile, directory: Path, progress: Progress) -> Path:
    """Fetches `file` into `directory` and returns its path; a file already there is whole and is not fetched again.

    Raises DownloadFailed if the source fails or sends something else, OSError if the local disk does not play along.
    """
    target = directory / file.name
    if target.exists():
        return target
    part = directory / (file.name + ".part")
    if urlsplit(file.url).scheme == "file":
        _copy(file, part)
    else:
        _fetch(client, file, part, progress)
    verify(file, part)
    with part.open("rb") as stream:
        os.fsync(stream.fileno())
    part.rename(target)
    _tag(part).unlink(missing_ok=True)
    return target


def verify(file: RemoteFile, path: Path) -> None:
    """Compares size and checksum with those published; if they differ, deletes the file and raises DownloadFailed."""
    size = path.stat().st_size
    wrong = ""
    if file.size is not None and size != file.size:
        wrong = f"has {size:,} bytes instead of {file.size:,}"
    elif file.sha256 is not None and _digest(path, hashlib.sha256) != file.sha256.lower():
        wrong = "does not have the SHA-256 that was published for it"
    elif file.git_sha1 is not None and _digest(path, lambda: hashlib.sha1(b"blob %d\0" % size)) != file.git_sha1:
        wrong = "does not have the git hash that was published for it"
    if wrong:
        path.unlink()
        _tag(path).unlink(missing_ok=True)
        raise DownloadFailed(f"{file.name} from {_host(file.url)} {wrong}; it was deleted, so pull again")


def require_space(directory: Path, size: int, what: str) -> None:
    """Raises OSError (ENOSPC) unless `size` bytes are free where `directory` is."""
    free = shutil.disk_usage(directory).free
    if size > free:
        raise OSError(errno.ENOSPC, f"{what} needs {size / 1e6:,.0f} MB and {free / 1e6:,.0f} MB are free")


def _digest(path: Path, start: Callable[[], hashlib._Hash]) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, start).hexdigest()


def _copy(file: RemoteFile, part: Path) -> None:
    source = Path(unquote(urlsplit(file.url).path))
    if not source.is_file():
        raise DownloadFailed(f"there is no file {source}; check the path")
    require_space(part.parent, source.stat().st_size, file.name)
    shutil.copyfile(source, part)


def _fetch(client: httpx.Client, file: RemoteFile, part: Path, progress: Progress) -> None:
    """Transfers until the part is whole; a dropped connection is resumed as long as some try brings new bytes."""
    farthest, failures = _size(part), 0
    while file.size is None or _size(part) != file.size:
        try:
            _transfer(client, file, part, progress)
            return
        except (httpx.TransportError, _Interrupted) as error:
            failures = 0 if _size(part) > farthest else failures + 1
            farthest = max(farthest, _size(part))
            # Where nobody answers at all, the machine is most likely offline, and waiting long helps nobody.
            if failures >= (2 if isinstance(error, httpx.ConnectError) else PATIENCE):
                raise DownloadFailed(unreachable(file.url, error)) from error
            time.sleep(BACKOFF * 2**failures)
        except (httpx.InvalidURL, httpx.TooManyRedirects) as error:
            raise DownloadFailed(f"{_host(file.url)} gave no usable address for {file.name} ({error})") from error


def _transfer(client: httpx.Client, file: RemoteFile, part: Path, progress: Progress) -> None:
    """One request. Appends to the part if the server goes on where it ends, and starts it anew otherwise."""
    tag = _tag(part).read_text("utf-8") if _tag(part).exists() else ""
    # Without a tag only a checksum could tell a file that changed on the server from the one that was begun.
    offset = _size(part) if tag or file.sha256 else 0
    headers = dict(file.headers)
    if offset:
        headers["Range"] = f"bytes={offset}-"
        if tag:
            headers["If-Range"] = tag
    with client.stream("GET", file.url, headers=headers) as response:
        resumed = response.status_code == 206 and _range_start(response) == offset > 0
        if response.status_code == 416 or (response.status_code == 206 and not resumed):
            part.unlink(missing_ok=True)
            raise _Interrupted("the server could not resume")
        _check_status(response, file)
        if not resumed:
            offset = 0
            _tag(part).write_text(_validator(response), "utf-8")
        length = response.headers.get("Content-Length", "")
        total = offset + int(length) if length.isdecimal() else file.size
        require_space(part.parent, (total or offset) - offset, file.name)
        with part.open("ab" if resumed else "wb") as stream:
            for chunk in response.iter_raw():
                stream.write(chunk)
                offset += len(chunk)
                progress(file.name, offset, total)
                if file.size is not None and offset > file.size:
                    return  # more than was promised: verification will refuse it, so the rest need not come
    if total is not None and offset < total:
        raise _Interrupted("the connection closed early")


def _check_status(response: httpx.Response, file: RemoteFile) -> None:
    status = response.status_code
    if status in (408, 429) or status >= 500:
        raise _Interrupted(f"status {status}")
    if status in (401, 403):
        raise DownloadFailed(
            f"{_host(file.url)} refuses {file.name} (status {status}); "
            "if it is gated, accept its licence there and set HF_TOKEN"
        )
    if status not in (200, 206):
        raise DownloadFailed(f"{_host(file.url)} does not have {file.name} (status {status}); check the name")


def _validator(response: httpx.Response) -> str:
    """What If-Range may carry: a strong ETag, else the date. A weak ETag promises too little to join two halves."""
    etag = response.headers.get("ETag", "")
    return etag if etag.startswith('"') else response.headers.get("Last-Modified", "")


def _range_start(response: httpx.Response) -> int | None:
    match = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    return int(match[1]) if match else None


def unreachable(url: str, error: Exception) -> str:
    """One line for a server that does not answer or does not go on answering."""
    reason = re.sub(r"\s+", " ", str(error)).strip() or type(error).__name__
    return f"{_host(url)} cannot be reached ({reason}); check the network connection or proxy, then pull again"


def _host(url: str) -> str:
    parts = urlsplit(url)
    return parts.hostname or unquote(parts.path)


def _tag(part: Path) -> Path:
    return part.with_name(part.name + ".tag")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
