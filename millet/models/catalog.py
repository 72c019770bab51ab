"""The catalog: the models that have a short name, as written down in `models.toml`.

A key that is unknown, missing or of the wrong type is an error that names it: a typing mistake in a checksum's key must
not switch the check off.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from millet.errors import MilletError, UnknownModel

_CATALOG = Path(__file__).with_name("models.toml")
_ADAPTERS = "adapters"  # the folder beside it
_OF_SOURCES = ("file", "size", "sha256")  # keys that say what the sources hold
_SAMPLING = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
_FILE_PLACES = ("{file_name}", "{file_content}", "{question}")


@dataclass(frozen=True)
class CatalogEntry:
    """One model that can be pulled. Its meaning, field by field, stands at the head of `models.toml`.

    adapter: its directory. size is in bytes; context in tokens; sampling maps temperature, top_p, ... to numbers. None
    or an empty value means that nobody wrote it down.
    """

    name: str
    sources: tuple[str, ...] = ()
    base: str | None = None
    adapter: Path | None = None
    title: str = ""
    file: str | None = None
    size: int | None = None
    sha256: str | None = None
    licence: str = ""
    languages: tuple[str, ...] = ()
    parameters: int | None = None
    context: int | None = None
    sampling: Mapping[str, float] = field(default_factory=dict)
    file_template: str | None = None


@cache
def catalog() -> dict[str, CatalogEntry]:
    """Every model in `models.toml` by its name, the default first."""
    return read_catalog(_CATALOG)


def default_model() -> str:
    """The name of the model that is used where none is named."""
    return next(iter(catalog()))


def unknown(name: str) -> UnknownModel:
    """The error for a name that is in no catalog, with the names that look like it."""
    near = difflib.get_close_matches(name.lower(), catalog(), n=3, cutoff=0.5)
    if near:
        return UnknownModel(f"no model is called {name!r}; did you mean {' or '.join(near)}? `millet models` lists all")
    if re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        return UnknownModel(f"nothing is at {name!r}; for a model on a hub write hf:{name} or modelscope:{name}")
    return UnknownModel(
        f"no model is called {name!r} and nothing is at that path; `millet models` lists the names, and a directory, "
        "a .gguf file or hf:ORG/NAME will do too"
    )


def read_catalog(path: Path) -> dict[str, CatalogEntry]:
    """Reads a file in the format of `models.toml`. Raises MilletError naming the file, the model and the key."""
    try:
        document = tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise MilletError(f"{path.name} cannot be read ({error}); restore it or correct it") from error
    _check_keys(document, ("default", "models"), path.name)
    tables = document.get("models")
    if not isinstance(tables, dict) or not all(isinstance(table, dict) for table in tables.values()):
        raise MilletError(f"{path.name}: models must be tables, each written as [models.NAME]")
    entries = {name: _entry(name, table, path) for name, table in tables.items()}
    for entry in entries.values():
        _check_base(entry, entries, path)
    default = document.get("default")
    if default not in entries:
        raise MilletError(f"{path.name}: default = {default!r} names no model; name one of {', '.join(entries)}")
    return {default: entries[default], **entries}


def _entry(name: str, table: dict[str, Any], path: Path) -> CatalogEntry:
    where = f"{path.name}: [models.{name}]"
    known = [f.name for f in fields(CatalogEntry) if f.name != "name"]
    _check_keys(table, known, where)
    types = get_type_hints(CatalogEntry)
    values = {key: _typed(table[key], types[key], f"{where} {key}") for key in table}
    if "base" in values or "adapter" in values:
        values["adapter"] = _adapter(values, path.parent / _ADAPTERS, where)
    elif not values.get("sources"):
        raise MilletError(f"{where}: sources is missing, or base and adapter in its place")
    _check_keys(values.get("sampling", {}), _SAMPLING, f"{where} sampling")
    if not re.fullmatch("[0-9a-f]{64}", values.get("sha256", "0" * 64)):
        raise MilletError(f"{where}: sha256 must be 64 hexadecimal digits in lower case")
    if any(values.get("file_template", place).count(place) != 1 for place in _FILE_PLACES):
        raise MilletError(f"{where}: file_template must have each of {', '.join(_FILE_PLACES)} once")
    return CatalogEntry(name=name, **values)


def _adapter(values: Mapping[str, Any], adapters: Path, where: str) -> Path:
    """The directory of the adapter that an entry ships as. Raises MilletError where that is not what it says."""
    for key in ("base", "adapter"):
        if not values.get(key):
            raise MilletError(f"{where}: {key} is missing; a model is an adapter and its base, or it has sources")
    for key in ("sources", *_OF_SOURCES):
        if key in values:
            raise MilletError(f"{where}: {key} is for a model that is pulled, and base for an adapter; leave one out")
    name = values["adapter"]
    if name.name != str(name) or not (adapters / name / "adapter_config.json").is_file():
        raise MilletError(f"{where}: no adapter is at {_ADAPTERS}/{name} beside {where.partition(':')[0]}; restore it")
    directory: Path = adapters / name
    return directory


def _check_base(entry: CatalogEntry, entries: Mapping[str, CatalogEntry], path: Path) -> None:
    if entry.base is None:
        return
    base, where = entries.get(entry.base), f"{path.name}: [models.{entry.name}] base = {entry.base!r}"
    if base is None:
        names = ", ".join(name for name, each in entries.items() if each.base is None)
        raise MilletError(f"{where} names no model; name one of {names}")
    if base.base is not None:
        raise MilletError(f"{where} is an adapter itself; name a model with sources")


def _check_keys(table: Mapping[str, Any], known: tuple[str, ...] | list[str], where: str) -> None:
    for key in table:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1, cutoff=0)
            raise MilletError(f"{where}: unknown key {key!r}; the nearest known key is {near[0]!r}")


def _typed(value: Any, annotation: Any, where: str) -> Any:
    """The value as the dataclass holds it: arrays become tuples. Raises MilletError where the type is another."""
    origin = get_origin(annotation)
    if origin is tuple:
        expected = "an array of strings"
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            return tuple(value)
    elif origin is Mapping:
        expected = "a table of numbers"
        if isinstance(value, dict) and all(type(item) in (int, float) for item in value.values()):
            return value
    else:
        kind = annotation if origin is None else get_args(annotation)[0]  # of `int | None`: int
        expected = str.__name__ if kind is Path else kind.__name__
        if type(value) is (str if kind is Path else kind):  # not isinstance, for which True is an int
            return kind(value)
    raise MilletError(f"{where}: {value!r} is not {expected}")
