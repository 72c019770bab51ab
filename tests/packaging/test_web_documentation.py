"""What docs/web.md and docs/deploy.md say of the web app is so."""

from __future__ import annotations

import re
from pathlib import Path

from millet.serve.guard import PAGE_POLICY
from millet.serve.routes.page import PAGES

HERE = Path(__file__).parents[2]
TEXT = (HERE / "docs" / "web.md").read_text("utf-8")
DEPLOY = (HERE / "docs" / "deploy.md").read_text("utf-8")
ROOTS = [HERE, HERE / "web" / "src", HERE / "tests" / "web"]


def test_every_file_that_is_named_is_there() -> None:
    named = re.findall(r"`([\w./-]+(?:\.(?:tsx?|css|json|py)|/))`", TEXT)
    # A folder's row in the table names files of that folder, as does the text around a path.
    folders = ROOTS + [HERE / "web" / "src" / part for part in ("api", "chat", "i18n", "markdown", "styles")]
    assert len(named) > 30
    assert [name for name in named if not any((folder / name).exists() for folder in folders)] == []


def test_every_folder_is_named() -> None:
    folders = {f"{path.name}/" for path in (HERE / "web" / "src").iterdir() if path.is_dir()}
    assert folders <= set(re.findall(r"`(\w+/)`", TEXT))
    assert folders


def test_links_lead_somewhere() -> None:
    for link in re.findall(r"\]\(([^)#]+)", TEXT):
        assert (HERE / "docs" / link).exists(), link


def test_operators_are_told_the_policy_and_the_paths() -> None:
    assert f"    {PAGE_POLICY}\n" in DEPLOY
    for path in PAGES:
        assert f"`{path.replace('{conversation}', '...')}`" in DEPLOY
