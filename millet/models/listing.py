"""What a source offers, and which of its files make up the model.

The hubs publish a checksum for every file, so a model from there is verified without anyone having to write it down:
Hugging Face the SHA-256 of LFS files and git's blob hash of the others, ModelScope the SHA-256 of all.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx2 as httpx

from millet.errors import DownloadFailed
from millet.models.download import RemoteFile, unreachable
from millet.models.sources import Source

_KEPT = {
    "config.json",
    "generation_config.json",
    "model.safetensors.index.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "chat_template.json",
    "LICENSE",
}


def list_files(source: Source, client: httpx.Client) -> list[RemoteFile]:
    """The files that make up the model: one GGUF, or the parts of a Hugging Face directory that Millet reads.

    Raises DownloadFailed if the source does not answer, does not have the model, or has nothing that can be read.
    """
    if source.scheme == "hf":
        offered = _hugging_face(source, client)
    elif source.scheme == "modelscope":
        offered = _modelscope(source, client)
    else:
        offered = _local(source)
    return _choose(source, offered)


def _local(source: Source) -> dict[str, RemoteFile]:
    path = Path(source.place)
    if not path.exists():
        raise DownloadFailed(f"nothing is at {path}; check the path")
    paths = [child for child in path.iterdir() if child.is_file()] if path.is_dir() else [path]
    return {p.name: RemoteFile(p.name, p.resolve().as_uri(), p.stat().st_size) for p in paths}


def _hugging_face(source: Source, client: httpx.Client) -> dict[str, RemoteFile]:
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    token = os.environ.get("HF_TOKEN")
    headers = {"Authorization": f"Bearer {token}"} if token else {}

    def read(answer: Any) -> dict[str, RemoteFile]:
        files = {}
        for item in answer["siblings"]:
            path, lfs = item["rfilename"], item.get("lfs") or {}
            files[path] = RemoteFile(
                name=path.rpartition("/")[2],
                # The commit, not the branch: all files of one pull belong to one revision.
                url=f"{endpoint}/{source.place}/resolve/{answer['sha']}/{quote(path)}",
                size=lfs.get("size", item.get("size")),
                sha256=lfs.get("sha256"),
                git_sha1=None if lfs else item.get("blobId"),
                headers=headers,
            )
        return files

    url = f"{endpoint}/api/models/{source.place}/revision/{quote(source.revision or 'main')}?blobs=true"
    return _ask(client, url, headers, source, read)


def _modelscope(source: Source, client: httpx.Client) -> dict[str, RemoteFile]:
    domain = os.environ.get("MODELSCOPE_DOMAIN", "www.modelscope.cn").rstrip("/")
    endpoint = domain if "://" in domain else f"https://{domain}"
    repository = f"{endpoint}/api/v1/models/{source.place}/repo"
    revision = quote(source.revision or "master")

    def read(answer: Any) -> dict[str, RemoteFile]:
        return {
            item["Path"]: RemoteFile(
                name=item["Path"].rpartition("/")[2],
                url=f"{repository}?Revision={revision}&FilePath={quote(item['Path'], safe='')}",
                size=item["Size"],
                sha256=item.get("Sha256") or None,
            )
            for item in answer["Data"]["Files"]
            if item.get("Type") != "tree"
        }

    return _ask(client, f"{repository}/files?Revision={revision}&Recursive=true", {}, source, read)


def _ask(
    client: httpx.Client,
    url: str,
    headers: dict[str, str],
    source: Source,
    read: Callable[[Any], dict[str, RemoteFile]],
) -> dict[str, RemoteFile]:
    """GETs a hub's listing and reads it; every way in which that fails becomes one line of DownloadFailed."""
    try:
        response = client.get(url, headers=headers)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise DownloadFailed(unreachable(url, error)) from error
    # Without a token Hugging Face answers 401 for what does not exist, too.
    if response.status_code in (401, 403, 404):
        advice = "check its name and revision; if it is private or gated, accept its licence there and set HF_TOKEN"
        raise DownloadFailed(f"{source} is not to be had (status {response.status_code}); {advice}")
    if response.status_code != 200:
        raise DownloadFailed(f"the hub of {source} answers with status {response.status_code}; try again later")
    try:
        return read(response.json())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DownloadFailed(f"the hub of {source} gives an answer that cannot be read; try again later") from error


def _choose(source: Source, offered: dict[str, RemoteFile]) -> list[RemoteFile]:
    """What to take: the file named, else a Hugging Face directory at the root, else the only GGUF."""
    ggufs = sorted(path for path in offered if path.endswith(".gguf"))
    if source.file is not None:
        if source.file not in offered:
            raise DownloadFailed(f"{source} does not exist; the repository has {', '.join(ggufs) or 'no GGUF file'}")
        return [offered[source.file]]
    weights = [path for path in offered if re.fullmatch(r"(?!consolidated)[^/]+\.safetensors", path)]
    if weights and "config.json" in offered:
        return [offered[path] for path in sorted(offered) if path in _KEPT or path in weights]
    if len(ggufs) == 1:
        return [offered[ggufs[0]]]
    if ggufs:
        raise DownloadFailed(
            f"{source} holds several models; name one: {source}/{ggufs[0]} (or {', '.join(ggufs[1:])})"
        )
    raise DownloadFailed(f"{source} holds no weights that Millet reads (safetensors with config.json, or GGUF)")
