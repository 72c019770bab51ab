from pathlib import Path

import pytest

from millet.train.metrics import StepLog, read_log


def test_what_came_after_the_checkpoint_is_cut_off_and_told(tmp_path: Path) -> None:
    path = tmp_path / "new" / "metrics.jsonl"
    with StepLog(path, 0) as log:
        log.write({"step": 1, "text": "ü"})
        size = log.sync()
        log.write({"step": 2})
        log.write({"step": 3})
        assert [record["step"] for record in read_log(path)] == [1, 2, 3], "at once visible"
    with open(path, "ab") as file:
        file.write(b'{"step": 4')  # killed in the middle of a line
    with StepLog(path, size) as log:
        assert [record["step"] for record in log.dropped] == [2, 3]
        log.write({"step": 2})
    assert read_log(path) == [{"step": 1, "text": "ü"}, {"step": 2}]


def test_no_number_that_json_lacks(tmp_path: Path) -> None:
    with StepLog(tmp_path / "m.jsonl", 0) as log, pytest.raises(ValueError, match="JSON"):
        log.write({"loss": float("nan")})


def test_a_missing_log_is_empty(tmp_path: Path) -> None:
    assert read_log(tmp_path / "m.jsonl") == []
