import json
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from millet.errors import MilletError
from millet.evaluate import provenance
from millet.train import lineage
from millet.train.lineage import check_same, code_hash, origin, read_lineage, tree_hash, write_lineage


def begun(tmp_path: Path, **other: Any) -> dict[str, Any]:
    (tmp_path / "data.jsonl").write_text("{}\n")
    (tmp_path / "model").mkdir(exist_ok=True)
    (tmp_path / "model" / "weights").write_bytes(b"w")
    given = {"configuration": {"kind": "sft", "optimizer": {"beta1": 0.9}}, "seed": 1} | other
    return origin(**given, data={"d": tmp_path / "data.jsonl"}, parents={"m": tmp_path / "model"})


def test_an_origin_is_json_and_the_same_twice(tmp_path: Path) -> None:
    once = begun(tmp_path)
    assert once == begun(tmp_path) == json.loads(json.dumps(once))
    assert check_same(once, begun(tmp_path), tmp_path) is None


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"seed": 2}, r"seed was another one \(was 1 and is 2\)"),
        ({"configuration": {"kind": "sft", "optimizer": {"beta1": 0.8}}}, r"\(optimizer.beta1 was 0.9 and is 0.8\)"),
        ({"configuration": {"kind": "sft", "optimizer": {"beta1": 0.9}, "new": "x"}}, r'\(new was null and is "x"\)'),
    ],
)
def test_what_differs_is_named(tmp_path: Path, other: dict[str, Any], message: str) -> None:
    with pytest.raises(MilletError, match=message):
        check_same(begun(tmp_path), begun(tmp_path, **other), tmp_path)


def test_another_program_goes_on_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = begun(tmp_path)
    monkeypatch.setattr(lineage, "code_hash", lambda: "other")
    assert "the program or the machine has changed" in (check_same(before, begun(tmp_path), tmp_path) or "")


@pytest.mark.parametrize("package", ["reasoning-gym", "math-verify", "a-package-of-tasks"])
def test_another_version_of_what_makes_problems_goes_on_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    versions = installed(monkeypatch)
    before = begun(tmp_path)
    assert check_same(before, begun(tmp_path), tmp_path) is None
    versions[package] = "1.1"
    said = check_same(before, begun(tmp_path), tmp_path) or ""
    assert "the program or the machine has changed" in said
    assert f'(packages.{package} was "1.0" and is "1.1")' in said


def test_a_run_that_began_when_no_packages_were_told_goes_on_and_says_so(tmp_path: Path) -> None:
    before = begun(tmp_path)
    del before["environment"]["packages"]
    said = check_same(before, begun(tmp_path), tmp_path) or ""
    assert "the program or the machine has changed" in said
    assert "\n" not in said


def installed(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The versions that packages have now, one with an entry point for a task among them."""
    versions = {"reasoning-gym": "1.0", "math-verify": "1.0", "a-package-of-tasks": "1.0"}

    def version(name: str) -> str:
        if name not in versions:
            raise PackageNotFoundError(name)
        return versions[name]

    def entries(group: str) -> list[SimpleNamespace]:
        name = "a-package-of-tasks"
        return [SimpleNamespace(dist=SimpleNamespace(name=name, version=versions[name]))] * (group == "millet.tasks")

    monkeypatch.setattr(provenance, "version", version)
    monkeypatch.setattr(provenance, "entry_points", entries)
    return versions


def test_a_tree_is_its_names_and_contents_without_the_times_in_its_lineage(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("1")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "b").write_text("2")
    before = tree_hash(tmp_path)
    write_lineage(tmp_path, {"wall_seconds": 3})
    assert tree_hash(tmp_path) == before
    (tmp_path / "sub" / "b").rename(tmp_path / "sub" / "c")
    renamed = tree_hash(tmp_path)
    assert renamed != before
    (tmp_path / "sub" / "c").write_text("3")
    assert tree_hash(tmp_path) not in (before, renamed)


def test_lineages_come_back(tmp_path: Path) -> None:
    assert read_lineage(tmp_path) is None
    write_lineage(tmp_path, {"ü": 1})
    assert read_lineage(tmp_path) == {"ü": 1}


def test_the_code_has_a_hash() -> None:
    assert len(code_hash()) == 64
