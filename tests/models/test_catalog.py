"""The catalog: what ships with Millet is sound, and every mistake in such a file is named."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from millet.errors import MilletError
from millet.models.catalog import CatalogEntry, catalog, default_model, read_catalog, unknown
from millet.models.sources import parse

GOOD = """
default = "b"
[models.a]
sources = ["file:/a.gguf"]
[models.b]
sources = ["hf:org/b", "modelscope:org/b"]
title = "B"
size = 12
sampling = { temperature = 0.6, top_k = 20 }
"""


def read(text: str, directory: Path) -> dict[str, CatalogEntry]:
    (directory / "models.toml").write_text(text, "utf-8")
    return read_catalog(directory / "models.toml")


def test_shipped_catalog_is_sound() -> None:
    assert next(iter(catalog())) == default_model()
    for name, entry in catalog().items():
        assert name == entry.name
        assert bool(entry.sources) != bool(entry.base)
        if entry.base is not None and entry.adapter is not None:
            named = json.loads((entry.adapter / "adapter_config.json").read_text("utf-8"))["base_model_name_or_path"]
            assert named == entry.base
        for source in entry.sources:
            assert str(parse(source)) == source
        assert entry.licence
        assert entry.title
        assert entry.languages
        assert entry.parameters
        assert entry.context
        assert 0 <= entry.sampling["temperature"] <= 2


def test_default_needs_only_a_package_index_and_is_verified() -> None:
    entry = catalog()[default_model()]
    entry = catalog()[entry.base] if entry.base else entry
    assert entry.sources[0].startswith("pypi:")
    assert entry.size == 98_362_432
    assert entry.sha256 is not None


def test_default_comes_first(tmp_path: Path) -> None:
    entries = read(GOOD, tmp_path)
    assert list(entries) == ["b", "a"]
    assert entries["b"].sources == ("hf:org/b", "modelscope:org/b")


@pytest.mark.parametrize(
    ("before", "after", "says"),
    [
        ("size = 12", "sise = 12", r"\[models.b\]: unknown key 'sise'; the nearest known key is 'size'"),
        ("top_k", "topk", "unknown key 'topk'; the nearest known key is 'top_k'"),
        ('default = "b"', 'defalt = "b"', "unknown key 'defalt'; the nearest known key is 'default'"),
        ('default = "b"', 'default = "c"', "names no model; name one of a, b"),
        ('default = "b"', "", "names no model"),
        ('sources = ["file:/a.gguf"]', "", r"\[models.a\]: sources is missing"),
        ('["file:/a.gguf"]', "[]", "sources is missing"),
        ('["file:/a.gguf"]', '"file:/a.gguf"', "is not an array of strings"),
        ("size = 12", 'size = "12"', "size: '12' is not"),
        ("size = 12", "size = true", "size: True is not"),
        ('title = "B"', "title = 3", "title: 3 is not str"),
        ("temperature = 0.6", 'temperature = "hot"', "sampling"),
        ("size = 12", 'sha256 = "abc"', "sha256 must be 64 hexadecimal digits"),
        ("[models.a]", "[models.a", "cannot be read"),
    ],
)
def test_every_mistake_is_named(before: str, after: str, says: str, tmp_path: Path) -> None:
    assert before in GOOD
    with pytest.raises(MilletError, match=says) as caught:
        read(GOOD.replace(before, after, 1), tmp_path)
    assert "models.toml" in str(caught.value)
    assert "\n" not in str(caught.value)


ADAPTED = (
    GOOD
    + """
[models.c]
base = "a"
adapter = "c"
"""
)


def with_adapter(text: str, directory: Path) -> dict[str, CatalogEntry]:
    for name in ("c", "empty"):
        (directory / "adapters" / name).mkdir(parents=True)
    (directory / "adapters" / "c" / "adapter_config.json").write_text("{}")
    return read(text, directory)


def test_a_model_may_be_an_adapter(tmp_path: Path) -> None:
    entry = with_adapter(ADAPTED, tmp_path)["c"]
    assert (entry.base, entry.adapter, entry.sources) == ("a", tmp_path / "adapters" / "c", ())


def test_the_entry_in_the_documentation_is_one(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "teach.md").read_text("utf-8")
    (entry,) = re.findall(r"```toml\n(\[models\..*?)```", page, flags=re.DOTALL)
    base = '[models.smollm2-135m]\nsources = ["file:/a.gguf"]\n'
    (tmp_path / "adapters" / "mine").mkdir(parents=True)
    (tmp_path / "adapters" / "mine" / "adapter_config.json").write_text("{}")
    assert read(f'default = "mine"\n{base}{entry}', tmp_path)["mine"].base == "smollm2-135m"


@pytest.mark.parametrize(
    ("before", "after", "says"),
    [
        ('adapter = "c"', "", r"\[models.c\]: adapter is missing; a model is an adapter and its base"),
        ('base = "a"', "", r"\[models.c\]: base is missing"),
        ('base = "a"', 'base = ""', "base is missing"),
        ('adapter = "c"', 'adapter = "c"\nsources = ["hf:org/c"]', "sources is for a model that is pulled"),
        ('adapter = "c"', f'adapter = "c"\nsha256 = "{"0" * 64}"', "sha256 is for a model that is pulled"),
        ('adapter = "c"', 'adapter = "c"\nsize = 1', "size is for a model that is pulled"),
        ('base = "a"', 'base = "z"', r"\[models.c\] base = 'z' names no model; name one of a, b"),
        ('base = "a"', 'base = "c"', "base = 'c' is an adapter itself; name a model with sources"),
        ('adapter = "c"', 'adapter = "d"', "no adapter is at adapters/d beside models.toml; restore it"),
        ('adapter = "c"', 'adapter = "empty"', "no adapter is at adapters/empty"),
        ('adapter = "c"', 'adapter = "../adapters/c"', "no adapter is at"),
        ('adapter = "c"', "adapter = 3", "adapter: 3 is not str"),
    ],
)
def test_every_mistake_of_an_adapter_is_named(before: str, after: str, says: str, tmp_path: Path) -> None:
    assert ADAPTED.count(before) == 1
    with pytest.raises(MilletError, match=says) as caught:
        with_adapter(ADAPTED.replace(before, after), tmp_path)
    assert "models.toml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unknown_name_gets_its_neighbours() -> None:
    assert "smollm2-135m" in str(unknown("smolm2-135"))
    assert "qwen3-0.6b" in str(unknown("Qwen3-0.6B"))
    assert "hf:someone/something" in str(unknown("someone/something"))
    assert "millet models" in str(unknown("/no/where.gguf"))


@pytest.mark.parametrize(
    ("text", "place", "revision", "file"),
    [
        ("hf:org/name", "org/name", None, None),
        ("hf:org/na.me-1@v1.0/dir/x.gguf", "org/na.me-1", "v1.0", "dir/x.gguf"),
        ("modelscope:org/name/x.gguf", "org/name", None, "x.gguf"),
        ("pypi:some-name==1.2.3", "some-name==1.2.3", None, None),
        ("file:/a/b c.gguf", "/a/b c.gguf", None, None),
    ],
)
def test_sources_are_read_and_written_back(text: str, place: str, revision: str | None, file: str | None) -> None:
    source = parse(text)
    assert (source.place, source.revision, source.file) == (place, revision, file)
    assert str(source) == text


@pytest.mark.parametrize(
    "text",
    ["hf:name", "hf:org/name/../../x", "hf:org/na me", "pypi:name", "pypi:--index=x==1", "file:", "ftp:org/name"],
)
def test_other_sources_are_refused_with_the_right_form(text: str) -> None:
    with pytest.raises(MilletError, match="is not a source; write "):
        parse(text)
