import io
import json
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from millet.cli import main, train
from tests.train.toy_recipe import one_thread, write_toy  # noqa: F401 - a fixture

pytestmark = pytest.mark.usefixtures("one_thread")


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main.main([str(argument) for argument in arguments])
    assert isinstance(ended.value.code, int)
    return ended.value.code


def test_a_run_tells_what_it_will_take_then_how_far_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = write_toy(tmp_path)
    assert run("train", recipe, "--out", tmp_path / "out") == 0
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(":")[0] for line in lines[:6]] == ["sft", "sft", "data", "memory", "time", "sft"]
    assert lines[5] == "sft: 12 steps"
    assert lines[6].startswith("step 1 of 12: loss 2")
    assert lines[-2].startswith("step 12 of 12: loss 1")
    assert lines[-1].startswith("Done in 0.0")


def test_the_lineage_as_json_and_a_folder_by_the_recipes_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("train", write_toy(tmp_path, epochs=1), "--json") == 0
    lineage = json.loads(capsys.readouterr().out)
    assert lineage == json.loads((tmp_path / "runs" / "recipe" / "lineage.json").read_text())
    assert list(lineage["stages"]) == ["sft"]


def test_stopped_by_the_system_it_says_so_and_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = write_toy(tmp_path)

    def stop(self: object, done: int, record: Mapping[str, Any]) -> None:
        if done == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(train._Lines, "step", stop)
        assert run("train", recipe, "--out", tmp_path / "out") == main.INTERRUPTED
    assert "stopped after step 3 of 12 and saved; run the same command to go on" in capsys.readouterr().err
    assert run("train", recipe, "--out", tmp_path / "out") == 0
    assert "sft: goes on after step 3 of 12 steps" in capsys.readouterr().err


def test_a_mistake_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = write_toy(tmp_path)
    recipe.write_text(recipe.read_text().replace("epochs", "epoks"))
    assert run("train", recipe) == main.FAILED
    assert capsys.readouterr().err.splitlines() == [
        f"millet: {recipe}: stage 1 (sft) has the unknown key 'epoks'; did you mean epochs?"
    ]


def test_on_a_terminal_there_is_a_bar() -> None:
    class Terminal(io.TextIOWrapper):
        def isatty(self) -> bool:
            return True

    file = Terminal(io.BytesIO(), encoding="utf-8")
    screen = Console(
        file=file, width=120, force_terminal=True, _environ={"TERM": "xterm"}, markup=False, highlight=False
    )
    with train._display(screen) as progress:
        progress.say("memory: [bold]1 GB")
        progress.begin("sft", 3, 12)
        progress.step(4, {"loss": 1.2345, "tokens_per_second": 1234.5, "reward": None})
    file.flush()
    shown = file.buffer.getvalue().decode()  # type: ignore[attr-defined]
    assert "memory: [bold]1 GB" in shown
    assert "4/12" in shown
    assert "loss 1.234, 1,234 tok/s" in shown
