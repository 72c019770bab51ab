import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from millet.bench import peers
from millet.bench.worker import Worker, peak_memory, serve
from millet.errors import MilletError


class Echo:
    """A contender that generates the last token of each prompt again and again."""

    runtime = "torch"

    def __init__(self, variant: str = "") -> None:
        self.variant = variant

    def start(self) -> None: ...

    def versions(self) -> dict[str, str]:
        return {"echo": "7"}

    def load(self, model: str) -> dict[str, Any]:
        if model == "missing":
            raise MilletError("no model is called missing")
        return {"path": f"/{model}", "variant": self.variant}

    def threads(self) -> int:
        return 3

    def logits(self, ids: list[int]) -> np.ndarray:
        return np.array([ids, ids], np.float32)

    def generate(self, prompts: list[list[int]], new_tokens: int) -> list[list[int]]:
        return [prompt[-1:] * new_tokens for prompt in prompts]


def answers(monkeypatch: pytest.MonkeyPatch, *commands: dict[str, Any]) -> list[dict[str, Any]]:
    monkeypatch.setitem(peers.CONTENDERS, "echo", Echo)
    out = io.StringIO()
    serve("echo:loud", io.StringIO("".join(json.dumps(command) + "\n" for command in commands)), out)
    return [json.loads(line) for line in out.getvalue().splitlines()]


def test_every_command_gets_one_line_with_time_and_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    start, load, generate = answers(
        monkeypatch,
        {"do": "start"},
        {"do": "load", "model": "m"},
        {"do": "generate", "prompts": [[1, 2], [3, 4]], "new_tokens": 3},
    )
    assert start["versions"] == {"echo": "7"}
    assert load["path"] == "/m"
    assert (load["threads"], load["variant"]) == (3, "loud")
    assert generate["token_ids"] == [[2, 2, 2], [4, 4, 4]]
    assert all(a["seconds"] >= 0 and a["peak_bytes"] >= start["bare_bytes"] > 0 for a in (start, load, generate))


def test_logits_go_into_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "logits.npy"
    (answer,) = answers(monkeypatch, {"do": "logits", "ids": [5, 7], "path": str(path)})
    assert "error" not in answer
    assert np.load(path).tolist() == [[5, 7], [5, 7]]


def test_an_error_is_an_answer_and_the_next_command_still_works(monkeypatch: pytest.MonkeyPatch) -> None:
    failed, loaded = answers(monkeypatch, {"do": "load", "model": "missing"}, {"do": "load", "model": "m"})
    assert failed["error"] == "no model is called missing"
    assert loaded["path"] == "/m"


def test_peak_memory_sees_what_was_freed_again() -> None:
    before = peak_memory()
    block = torch.ones(96 * 2**20, dtype=torch.uint8)
    del block
    torch.ones(before // 4 if before < 2**31 else 2**29).sum()  # at least as large as all that was resident before
    assert peak_memory() > before


def test_a_process_that_dies_is_an_error_not_a_hang() -> None:
    with (
        Worker("nobody", threads=1) as worker,
        pytest.raises(MilletError, match=r"nobody failed at start: its process"),
    ):
        worker.call("start")
