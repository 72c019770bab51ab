"""The way that docs/teach.md begins with, walked as it stands; but for MODEL, which is the toy start, and for chance in
the last question: one reply in many is none."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.train.toy_start import ROOT, TOY_START, commands, documented

CHOICE = "MODEL=smollm2-135m\n"


def bin_folder(folder: Path) -> Path:
    """With `millet` and `python`, as an environment with Millet installed has them."""
    folder.mkdir()
    for name, words in {"python": "", "millet": "-m millet.cli.main "}.items():
        script = folder / name
        script.write_text(f'#!/bin/sh\nexec "{sys.executable}" {words}"$@"\n')
        script.chmod(0o755)
    return folder


def test_a_stranger_gets_there(tmp_path: Path) -> None:
    typed = commands()
    assert typed.startswith(CHOICE)
    place = tmp_path / "place"
    place.mkdir()
    for name in ("digits.py", "examples.py"):
        (place / name).write_text(documented(name))
    assert len(documented("digits.py").splitlines()) <= 30
    environment = {
        **os.environ,
        "PATH": f"{bin_folder(tmp_path / 'bin')}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
    }
    typed = typed.replace(CHOICE, f"MODEL={TOY_START}\n").replace("millet ask ", "millet ask --temperature 0 ")
    script = f"set -e\n{typed}"
    ran = subprocess.run(
        ["bash", "-c", script], cwd=place, env=environment, capture_output=True, text=True, timeout=900
    )
    said = ran.stdout + ran.stderr
    assert ran.returncode == 0, said
    assert "digit_sum can be trained on" in said
    assert "train on this" in said
    assert " less " in said, "the comparison"
    assert "The answer is" in ran.stdout.splitlines()[-1]
    out = place / "runs" / "digits"
    lineage = json.loads((out / "lineage.json").read_text())
    assert list(lineage["stages"]) == ["sft", "grpo"]
    assert "digit_sum" in (place / "report.html").read_text()
