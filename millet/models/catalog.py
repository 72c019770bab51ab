"""The catalog: the models that have a short name, as written down in `models.toml`.

A key that is unknown, missing or of the wrong type is an error that names it: a typing mistake in a checksum's key must
not switch the check off.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from millet.errors import MilletError, UnknownModel

_CATALOG = Path(__file__).with_name("models.toml")
_SAMPLING = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
_FILE_PLACES = ("{file_name}", "{file_content}", "{question}")


@dataclass(frozen=True)
class CatalogEntry:
    """One model that can be pulled. Its meaning, field by field, stands at the head of `models.toml`.

    size is in bytes; context in tokens; sampling maps temperature, top_p, ... to numbers. None or an empty
    value means that nobody wrote it down.
    """

    name: str
    sources: tuple[str, ...]
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
    entries = {name: _entry(name, table, f"{path.name}: [models.{name}]") for name, table in tables.items()}
    default = document.get("default")
    if default not in entries:
        raise MilletError(f"{path.name}: default = {default!r} names no model; name one of {', '.join(entries)}")
    return {default: entries[default], **entries}


def _entry(name: str, table: dict[str, Any], where: str) -> CatalogEntry:
    known = [f.name for f in fields(CatalogEntry) if f.name != "name"]
    _check_keys(table, known, where)
    types = get_type_hints(CatalogEntry)
    values = {key: _typed(table[key], types[key], f"{where} {key}") for key in table}
    for f in fields(CatalogEntry):
        if f.name != "name" and f.default is MISSING and f.default_factory is MISSING and not values.get(f.name):
            raise MilletError(f"{where}: {f.name} is missing")
    _check_keys(values.get("sampling", {}), _SAMPLING, f"{where} sampling")
    if not re.fullmatch("[0-9a-f]{64}", values.get("sha256", "0" * 64)):
        raise MilletError(f"{where}: sha256 must be 64 hexadecimal digits in lower case")
    if any(values.get("file_template", place).count(place) != 1 for place in _FILE_PLACES):
        raise MilletError(f"{where}: file_template must have each of {', '.join(_FILE_PLACES)} once")
    return CatalogEntry(name=name, **values)


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
        expected = kind.__name__
        if type(value) is kind:  # not isinstance, for which True is an int
            return value
    raise MilletError(f"{where}: {value!r} is not {expected}")
