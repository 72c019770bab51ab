"""Downloads against a server that drops connections, cannot resume, changes the file, or sends something else."""

from __future__ import annotations

import errno
import hashlib
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from millet.errors import DownloadFailed
from millet.models import download as module
from millet.models.download import RemoteFile, download, open_client, require_space
from tests.models.web import Web, etag, serve


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    monkeypatch.setattr(module, "BACKOFF", 0.0)
    with serve() as server:
        yield server


@pytest.fixture
def content(seed: int) -> bytes:
    return random.Random(seed).randbytes(3_000_000)


def fetch(file: RemoteFile, directory: Path, seen: list[tuple[str, int, int | None]] | None = None) -> Path:
    with open_client() as client:
        return download(client, file, directory, lambda *report: (seen if seen is not None else []).append(report))


def remote(web: Web, content: bytes, **changes: object) -> RemoteFile:
    web.files["/model.gguf"] = content
    facts: dict[str, object] = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest(), **changes}
    return RemoteFile("model.gguf", f"{web.address}/model.gguf", **facts)  # type: ignore[arg-type]


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_file_arrives_whole_with_its_progress(web: Web, content: bytes, tmp_path: Path) -> None:
    seen: list[tuple[str, int, int | None]] = []
    path = fetch(remote(web, content), tmp_path, seen)
    assert path.read_bytes() == content
    assert names(tmp_path) == ["model.gguf"]
    done = [report[1] for report in seen]
    assert done == sorted(done)
    assert seen[-1] == ("model.gguf", len(content), len(content))


def test_present_file_is_not_fetched_again(web: Web, content: bytes, tmp_path: Path) -> None:
    file = remote(web, content)
    fetch(file, tmp_path)
    fetch(file, tmp_path)
    assert len(web.requests) == 1


def test_dropped_connections_are_resumed_where_they_ended(web: Web, content: bytes, tmp_path: Path) -> None:
    web.drop_after = [1_000_000, 500_000, 100_000]
    assert fetch(remote(web, content), tmp_path).read_bytes() == content
    starts = [int(asked.removeprefix("bytes=").rstrip("-")) for asked in web.ranges_asked()[1:] if asked]
    assert len(starts) == 3
    assert starts == sorted(set(starts))
    assert web.requests[-1][1]["if-range"] == etag(content)


@pytest.mark.parametrize("known", [True, False], ids=["checksum known", "checksum unknown"])
def test_interrupted_download_goes_on_in_the_next_run(web: Web, content: bytes, tmp_path: Path, known: bool) -> None:
    file = remote(web, content) if known else remote(web, content, size=None, sha256=None)

    def interrupt(what: str, done: int, total: int | None) -> None:
        if done > 1_000_000:
            raise KeyboardInterrupt

    with open_client() as client, pytest.raises(KeyboardInterrupt):
        download(client, file, tmp_path, interrupt)
    begun = (tmp_path / "model.gguf.part").stat().st_size
    assert begun > 1_000_000
    assert not (tmp_path / "model.gguf").exists()
    assert fetch(file, tmp_path).read_bytes() == content
    assert web.ranges_asked() == [None, f"bytes={begun}-"]


def test_file_that_changed_meanwhile_is_begun_anew(web: Web, content: bytes, tmp_path: Path) -> None:
    old = content[::-1]
    web.drop_after = [1_000_000] + [0] * module.PATIENCE
    with pytest.raises(DownloadFailed):
        fetch(remote(web, old, size=None, sha256=None), tmp_path)
    file = remote(web, content, size=None, sha256=None)
    assert fetch(file, tmp_path).read_bytes() == content


def test_server_without_ranges_sends_all_again(web: Web, content: bytes, tmp_path: Path) -> None:
    web.ranges = False
    web.drop_after = [1_000_000]
    assert fetch(remote(web, content), tmp_path).read_bytes() == content
    assert len(web.requests) == 2


def test_download_that_never_gets_further_ends(web: Web, content: bytes, tmp_path: Path) -> None:
    web.ranges = False
    web.drop_after = [1000] * 50
    with pytest.raises(DownloadFailed, match="cannot be reached"):
        fetch(remote(web, content), tmp_path)
    assert len(web.requests) <= module.PATIENCE + 1


def test_part_longer_than_the_file_is_thrown_away(web: Web, content: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.gguf.part").write_bytes(content + b"more")
    assert fetch(remote(web, content), tmp_path).read_bytes() == content


@pytest.mark.parametrize("wrong", ["sha256", "git_sha1", "size"])
def test_wrong_bytes_are_deleted(web: Web, content: bytes, tmp_path: Path, wrong: str) -> None:
    facts: dict[str, object] = {"sha256": None, "size": None}
    facts[wrong] = {"size": len(content) - 1, "sha256": "0" * 64, "git_sha1": "0" * 40}[wrong]
    with pytest.raises(DownloadFailed, match="pull again") as caught:
        fetch(remote(web, content, **facts), tmp_path)
    assert "\n" not in str(caught.value)
    assert names(tmp_path) == []


def test_git_hash_is_that_of_git(web: Web, tmp_path: Path) -> None:
    # `printf 'hello\n' | git hash-object --stdin`
    file = remote(web, b"hello\n", sha256=None, git_sha1="ce013625030ba8dba906f756967f9e9ca394464a")
    assert fetch(file, tmp_path).read_bytes() == b"hello\n"


def test_endless_body_is_cut_off(web: Web, content: bytes, tmp_path: Path) -> None:
    seen: list[tuple[str, int, int | None]] = []
    with pytest.raises(DownloadFailed, match="bytes instead of 10"):
        fetch(remote(web, content, size=10), tmp_path, seen)
    assert seen[-1][1] < len(content)
    assert names(tmp_path) == []


def test_busy_server_is_asked_again(web: Web, content: bytes, tmp_path: Path) -> None:
    web.statuses = [503, 429, 500]
    assert fetch(remote(web, content), tmp_path).read_bytes() == content


@pytest.mark.parametrize(("status", "advice"), [(404, "check the name"), (401, "HF_TOKEN"), (403, "HF_TOKEN")])
def test_final_answers_are_not_asked_again(web: Web, content: bytes, tmp_path: Path, status: int, advice: str) -> None:
    web.statuses = [status] * 9
    with pytest.raises(DownloadFailed, match=advice):
        fetch(remote(web, content), tmp_path)
    assert len(web.requests) == 1


def test_nobody_there_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BACKOFF", 0.0)
    with serve() as gone:
        address = gone.address
    with pytest.raises(DownloadFailed, match="check the network connection") as caught:
        fetch(RemoteFile("x", f"{address}/x"), tmp_path)
    assert "\n" not in str(caught.value)


def test_secret_headers_do_not_follow_to_another_host(web: Web, content: bytes, tmp_path: Path) -> None:
    with serve() as elsewhere:
        elsewhere.files["/cdn"] = content
        web.redirects["/model.gguf"] = f"{elsewhere.address.replace('127.0.0.1', 'localhost')}/cdn"
        fetch(remote(web, content, headers={"Authorization": "Bearer secret"}), tmp_path)
        assert web.requests[0][1]["authorization"] == "Bearer secret"
        assert "authorization" not in elsewhere.requests[0][1]


def test_full_disk_is_seen_beforehand(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="MB are free") as caught:
        require_space(tmp_path, 1 << 62, "a model")
    assert caught.value.errno == errno.ENOSPC


def test_local_file_is_copied_and_verified(tmp_path: Path, content: bytes) -> None:
    source = tmp_path / "a folder" / "model.gguf"
    source.parent.mkdir()
    source.write_bytes(content)
    good = RemoteFile("model.gguf", source.as_uri(), sha256=hashlib.sha256(content).hexdigest())
    assert fetch(good, tmp_path).read_bytes() == content
    with pytest.raises(DownloadFailed, match="SHA-256"):
        fetch(RemoteFile("other.gguf", source.as_uri(), sha256="0" * 64), tmp_path)
    assert source.read_bytes() == content
    with pytest.raises(DownloadFailed, match="no file"):
        fetch(RemoteFile("third.gguf", (tmp_path / "nothing").as_uri()), tmp_path)
