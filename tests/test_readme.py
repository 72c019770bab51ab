"""README.md and README.zh-CN.md say the same, and lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

HERE = Path(__file__).parents[1]
ENGLISH = (HERE / "README.md").read_text("utf-8")
CHINESE = (HERE / "README.zh-CN.md").read_text("utf-8")
LARGEST, ALL = 60_000, 400_000  # bytes of a picture, and of all of them


def code(text: str) -> list[str]:
    return re.findall(r"^```.*?^```$", text, flags=re.MULTILINE | re.DOTALL)


def prose(text: str) -> str:
    return re.sub(r"^```.*?^```$", "```", text, flags=re.MULTILINE | re.DOTALL)


def shape(text: str) -> list[str]:
    """Headings, code, pictures, items and tables, each as its kind, in their order."""
    kinds = re.compile(r"^(#+|```|!|<img|- |\|(?=[^\n]*\n\|-))", flags=re.MULTILINE)
    return kinds.findall(prose(text))


def links(text: str) -> list[str]:
    return re.findall(r'(?:\]\(|src=")([^)"]+)[)"]', prose(text))


def numbers_of_rows(text: str) -> list[list[str]]:
    """What each row of a table has in columns of figures."""
    rows = re.findall(r"^\|.*\|$", prose(text), flags=re.MULTILINE)
    return [[cell.strip() for cell in row.split("|")[2:-1]] for row in rows if re.search(r"\| *[\d.]+ ", row)]


def others(text: str) -> list[str]:
    """Links, without the one to the other language."""
    return [link for link in links(text) if not link.startswith("README")]


def test_both_have_the_same_parts_in_the_same_order() -> None:
    assert shape(CHINESE) == shape(ENGLISH)
    assert shape(ENGLISH).count("##") > 5


def test_both_have_the_same_code() -> None:
    assert code(CHINESE) == code(ENGLISH)


def test_both_have_the_same_links_and_pictures() -> None:
    assert others(CHINESE) == others(ENGLISH)
    assert sum(link.startswith("docs/images/") for link in links(ENGLISH)) >= 5


def test_both_have_the_same_figures() -> None:
    assert numbers_of_rows(CHINESE) == numbers_of_rows(ENGLISH)
    assert len(numbers_of_rows(ENGLISH)) > 5


def test_tables_have_as_many_rows() -> None:
    assert len(re.findall(r"^\|", CHINESE, flags=re.MULTILINE)) == len(re.findall(r"^\|", ENGLISH, flags=re.MULTILINE))


def test_names_in_code_marks_are_the_same() -> None:
    """Commands, options, routes and values, whose order may differ between languages."""
    names = [sorted(re.findall(r"`[^`\n]+`", prose(text))) for text in (CHINESE, ENGLISH)]
    assert names[0] == names[1]


def test_each_leads_to_the_other() -> None:
    assert "README.zh-CN.md" in links(ENGLISH)
    assert "README.md" in links(CHINESE)


@pytest.mark.parametrize("link", sorted(set(links(ENGLISH))))
def test_links_lead_somewhere(link: str) -> None:
    assert link.startswith("https://") or (HERE / link).is_file()


def test_every_picture_is_used_and_small() -> None:
    pictures = sorted((HERE / "docs" / "images").iterdir())
    pages = "".join(page.read_text("utf-8") for page in (HERE / "docs").glob("*.md"))
    shown = set(links(ENGLISH)) | {f"docs/{link}" for link in links(pages)}
    assert {f"docs/images/{picture.name}" for picture in pictures} <= shown
    sizes = [picture.stat().st_size for picture in pictures]
    assert max(sizes) <= LARGEST
    assert sum(sizes) <= ALL
