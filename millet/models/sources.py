"""How a source is written: `pypi:`, `hf:`, `modelscope:` or `file:`, and the place there."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from millet.errors import UnknownModel


@dataclass(frozen=True)
class Source:
    """A parsed source: its scheme, the place (`ORG/NAME`, `NAME==VERSION` or a path), a revision and one file."""

    scheme: str
    place: str
    revision: str | None = None
    file: str | None = None

    def __str__(self) -> str:
        revision = f"@{self.revision}" if self.revision else ""
        return f"{self.scheme}:{self.place}{revision}" + (f"/{self.file}" if self.file else "")


def is_source(text: str) -> bool:
    """Whether the text begins like a source, so that it is not a name or a path."""
    return text.startswith(("pypi:", "hf:", "modelscope:", "file:"))


def parse(text: str) -> Source:
    """Reads `pypi:NAME==VERSION`, `hf:ORG/NAME[@REVISION][/FILE]`, the same for `modelscope:`, or `file:/PATH`.

    Raises UnknownModel for anything else.
    """
    scheme, _, place = text.partition(":")
    if scheme == "file" and place:
        return Source(scheme, str(Path(place).expanduser().absolute()))
    if scheme == "pypi" and re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*==[A-Za-z0-9.!+]+", place):
        return Source(scheme, place)
    match = re.fullmatch(r"(\w[\w.-]*/\w[\w.-]*)(?:@([\w.-]+))?(?:/([\w./-]+))?", place)
    if scheme in ("hf", "modelscope") and match and ".." not in place:
        return Source(scheme, match[1], match[2], match[3])
    form = {"pypi": "pypi:NAME==VERSION", "file": "file:/PATH"}.get(scheme, f"{scheme}:ORG/NAME[@REVISION][/FILE]")
    raise UnknownModel(f"{text!r} is not a source; write {form}")
