import errno
import hashlib
from pathlib import Path

import pytest
import torch

from millet.errors import MilletError
from millet.train import checkpoint
from millet.train.checkpoint import Checkpoints, weights_hash, write_atomically


def test_the_last_two_are_kept_and_come_back(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "new" / "folder")
    assert checkpoints.latest() is None
    state = {
        "weights": {"w": torch.arange(6.0).view(2, 3)},
        "list": [1, 2.5, None, "x"],
        "half": torch.ones(2).bfloat16(),
    }
    for step in (5, 10, 120):
        checkpoints.save(step, state | {"step": step})
    assert checkpoints.steps() == [10, 120]
    found = checkpoints.latest()
    assert found is not None
    step, loaded = found
    assert (step, loaded["step"], loaded["list"]) == (120, 120, [1, 2.5, None, "x"])
    assert torch.equal(loaded["weights"]["w"], state["weights"]["w"])  # type: ignore[index]
    assert loaded["half"].dtype == torch.bfloat16


def test_one_that_is_spoilt_is_passed_over(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, {"n": 1})
    checkpoints.save(2, {"n": 2})
    path = tmp_path / "step-00000002" / "state.pt"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert checkpoints.latest() == (1, {"n": 1})
    (tmp_path / "step-00000001" / "state.pt").unlink()
    with pytest.raises(MilletError, match="no checkpoint in"):
        checkpoints.latest()


def test_a_spoilt_one_is_written_again(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(2, {"n": 2})
    (tmp_path / "step-00000002" / "state.pt").unlink()
    checkpoints.save(2, {"n": 3})
    assert checkpoints.latest() == (2, {"n": 3})


def test_nothing_is_in_its_place_before_it_is_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, {"n": 1})
    synced: list[str] = []

    def fail(path: Path) -> None:
        assert checkpoints.steps() == [1]
        synced.append(path.name)
        if len(synced) == 3:  # state, digest, and their folder
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, "sync", fail)
    with pytest.raises(MilletError, match=r"step 2 could not be saved .*No space left.* of step 1, is whole") as caught:
        checkpoints.save(2, {"n": 2})
    assert "\n" not in str(caught.value)
    assert sorted(synced) == [".step-00000002.writing", "state.pt", "state.sha256"]
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]


def test_what_a_killed_run_left_goes_away(tmp_path: Path) -> None:
    (tmp_path / ".step-00000009.writing").mkdir()
    (tmp_path / ".step-00000009.writing" / "state.pt").write_bytes(b"half")
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.latest() is None
    checkpoints.save(1, {})
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]


def test_the_hash_is_of_names_types_shapes_and_bytes_in_order() -> None:
    a, b = torch.tensor([[1.0, 2.0]]), torch.tensor([3], dtype=torch.int32)
    text = b"a torch.float32 (1, 2)\n" + a.numpy().tobytes() + b"b torch.int32 (1,)\n" + b.numpy().tobytes()
    assert weights_hash({"b": b, "a": a}) == hashlib.sha256(text).hexdigest()
    assert weights_hash({"a": a}) != weights_hash({"a": a.view(2, 1)})
    assert weights_hash({"a": a.t()}) == weights_hash({"a": a.t().contiguous()})


def test_a_text_is_written_whole_or_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.json"
    write_atomically(path, "old")

    def fail(path: Path) -> None:
        raise OSError("disk")

    monkeypatch.setattr(checkpoint, "sync", fail)
    with pytest.raises(OSError, match="disk"):
        write_atomically(path, "new")
    assert path.read_text() == "old"
