"""Packed weights kept on disk: the same bits again, anew when anything changed, and left out where that is hard."""

from pathlib import Path
from typing import Any

import pytest
import torch

from millet.models import load as load_module
from millet.models import packed_files
from millet.models.load import load
from tests.models.files import toy, write_directory

pytestmark = pytest.mark.usefixtures("with_native")

IDS = [5, 9, 100, 3, 17]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MILLET_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(load_module, "WORTHWHILE", -1.0)  # whatever it takes
    monkeypatch.setattr(packed_files, "SPARE_DISK", 0)
    return tmp_path / "home"


@pytest.fixture
def directory(tmp_path: Path, seed: int) -> Path:
    return write_directory(toy("qwen3", seed, hidden_size=64, intermediate_size=96), tmp_path / "toy")


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many matrices each load took from disk."""
    counts: list[int] = []
    real = packed_files.open_packed

    def watched(*arguments: Any) -> Any:
        found = real(*arguments)
        counts.append(len(found))
        return found

    monkeypatch.setattr(load_module, "open_packed", watched)
    return counts


def kept(home: Path) -> list[Path]:
    return sorted((home / "packed").iterdir())


def test_the_second_load_takes_what_the_first_kept(directory: Path, home: Path, opened: list[int]) -> None:
    first = load(directory, quantize="q4")
    second = load(directory, quantize="q4")
    assert opened[0] == 0
    assert opened[1] > 20
    assert torch.equal(first.logits(IDS), second.logits(IDS))
    first.network.unpack()
    second.network.unpack()
    for (name, ours), theirs in zip(first.network.named_parameters(), second.network.parameters(), strict=True):
        assert torch.equal(ours, theirs), name
    assert len(kept(home)) == 1


def test_other_formats_and_changed_files_are_packed_anew(
    directory: Path, home: Path, opened: list[int], seed: int
) -> None:
    load(directory, quantize="q4")
    eight = load(directory, quantize="q8")
    assert opened == [0, 0]
    assert len(kept(home)) == 1, "one file for each model"
    write_directory(toy("qwen3", seed + 1, hidden_size=64, intermediate_size=96), directory)
    other = load(directory, quantize="q8")
    assert opened == [0, 0, 0]
    assert not torch.equal(eight.logits(IDS), other.logits(IDS))


@pytest.mark.parametrize("damage", ["empty", "short", "header", "length"])
def test_a_damaged_file_is_made_again(damage: str, directory: Path, home: Path, opened: list[int]) -> None:
    first = load(directory, quantize="q8")
    (path,) = kept(home)
    content = path.read_bytes()
    changed = {
        "empty": b"",
        "short": content[: len(content) // 2],
        "header": content[:8] + b"}" + content[9:],
        "length": b"\xff" * 8 + content[8:],
    }
    path.write_bytes(changed[damage])
    assert torch.equal(load(directory, quantize="q8").logits(IDS), first.logits(IDS))
    assert torch.equal(load(directory, quantize="q8").logits(IDS), first.logits(IDS))
    assert opened[:2] == [0, 0]
    assert opened[2] > 20
    assert path.read_bytes() == content


def test_a_home_that_cannot_be_written_to_is_no_matter(
    directory: Path, tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MILLET_HOME", str(tmp_path / "file" / "home"))
    assert load(directory, quantize="q8").quantised
    monkeypatch.setenv("MILLET_HOME", str(home))
    monkeypatch.setattr(packed_files, "SPARE_DISK", 1 << 62)
    assert load(directory, quantize="q8").quantised
    assert not (home / "packed").exists() or not kept(home)


def test_what_is_packed_quickly_is_not_kept(directory: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load_module, "WORTHWHILE", 1e9)
    load(directory, quantize="q8")
    load(directory)
    assert not (home / "packed").exists()
