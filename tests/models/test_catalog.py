"""The catalog: what ships with Millet is sound, and every mistake in such a file is named."""

from __future__ import annotations

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
    assert default_model() == "smollm2-135m"
    assert next(iter(catalog())) == default_model()
    for name, entry in catalog().items():
        assert name == entry.name
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
