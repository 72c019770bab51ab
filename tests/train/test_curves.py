"""scripts/curves.py: curves of a stage as an image for the documentation."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from millet.errors import BadRequest
from scripts.curves import image


@pytest.fixture
def stage(tmp_path: Path) -> Path:
    lines = [{"step": step, "accuracy": step / 20, "kl": None} for step in range(1, 21)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path


def test_curves_stand_side_by_side(stage: Path) -> None:
    svg = ElementTree.fromstring(image(stage, ["accuracy", "step"]))
    lines = svg.findall(".//{*}polyline")
    assert [line.get("class") for line in lines] == [None, "mean"] * 2
    assert [len(line.get("points", "").split()) for line in lines] == [20] * 4
    texts = [text.text for text in svg.findall(".//{*}text")]
    assert {"accuracy", "step", "0.05", "1", "20"} <= set(texts)


def test_a_metric_that_no_step_has_is_refused(stage: Path) -> None:
    for name in ("kl", "reward"):
        with pytest.raises(BadRequest, match=f"no metric '{name}'"):
            image(stage, [name])
