"""Files that a person sends with a message: their names and texts, and how the model is shown them.

A template is text with {file_name}, {file_content} and {question} in it. Only the template's own are filled in: what
looks like one in a file, in its name or in what the person says is text like any other.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from typing import Annotated

from pydantic import AfterValidator, Field

from millet.models.catalog import catalog
from millet.serve.store.records import Attachment
from millet.serve.validation import Body

MOST_FILES = 20  # of one message
LONGEST_NAME = 255  # characters
FILE_TEMPLATE = """\
[file name]: {file_name}
[file content begin]
{file_content}
[file content end]
{question}"""
"""DeepSeek's for its R1 and V3: https://github.com/deepseek-ai/DeepSeek-R1#official-prompts"""

_PLACE = re.compile(r"\{(file_name|file_content|question)\}")
_INVISIBLE = ("Cc", "Cs", "Zl", "Zp")  # control characters, halves of pairs, and what ends a line or a paragraph
_DIRECTIONS = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def clean_name(name: str) -> str:
    """On one line, and read in the order in which it is written. Raises ValueError where nothing is left."""
    kept = [char for char in name if unicodedata.category(char) not in _INVISIBLE and char not in _DIRECTIONS]
    if not (cleaned := "".join(kept).strip()):
        raise ValueError("should have a character that can be seen")
    return cleaned


class File(Body):
    """text: what the file says; whoever sends it has read it."""

    name: Annotated[str, Field(min_length=1, max_length=LONGEST_NAME), AfterValidator(clean_name)]
    text: str


Files = Annotated[list[File], Field(max_length=MOST_FILES, fail_fast=True)]


def stored(files: Sequence[File]) -> tuple[Attachment, ...]:
    """As messages have them."""
    return tuple(Attachment(file.name, file.text) for file in files)


def template_of(model: str) -> str:
    """The one that the model was trained with, as far as the catalog knows."""
    entry = catalog().get(model)
    return (entry and entry.file_template) or FILE_TEMPLATE


def with_files(template: str, question: str, files: Sequence[Attachment]) -> str:
    """What the person says with its files as the template shows them, one after another."""
    shown = question
    for file in reversed(files):
        shown = _filled(template, file_name=file.name, file_content=file.text, question=shown)
    return shown


def _filled(template: str, **values: str) -> str:
    return _PLACE.sub(lambda place: values[place[1]], template)
