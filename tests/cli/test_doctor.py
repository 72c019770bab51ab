import json
from pathlib import Path

import pytest
from typer import Typer
from typer.testing import CliRunner

from millet.cli import doctor as module
from millet.cli.doctor import doctor, notes
from millet.errors import UnknownModel
from millet.kernels import roof
from millet.kernels.cpu import CPU
from millet.models.catalog import catalog
from millet.models.config import ModelConfig
from tests.models.files import toy, write_directory

app = Typer()
app.command()(doctor)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MILLET_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(roof, "READ_BYTES", 2**20)
    monkeypatch.setattr(roof, "MATMUL", (16, 64, 64))
    monkeypatch.setattr(roof, "SECONDS", 0.001)


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0
    return result.stdout


def test_json_names_every_model_of_the_catalog_with_its_prospects() -> None:
    findings = json.loads(run("--json"))
    assert [row["name"] for row in findings["models"]] == list(catalog())
    for row in findings["models"]:
        assert row["here"] is False
        assert row["exact"] is False
        assert row["parameters"] == catalog()[row["name"]].parameters
        assert row["weights"] == row["parameters"] * (4 if row["kept"] == "float32" else 2)
        assert row["fits"] == (row["needed"] <= findings["memory"]["available"])
    assert findings["roof"]["read"] > 0
    assert findings["processor"]["cores"] >= 1
    kernels = findings["kernels"]
    assert set(kernels) == {"variant", "why_not", "library"}
    assert (kernels["variant"] is None) == (kernels["library"] is None) == (kernels["why_not"] is not None)


def test_a_model_on_disk_is_planned_from_its_own_shape(tmp_path: Path, seed: int) -> None:
    folder = write_directory(toy("llama", seed), tmp_path / "toy")
    config = ModelConfig.from_hf(json.loads((folder / "config.json").read_text()))
    (row,) = json.loads(run("--json", "--model", str(folder)))["models"]
    assert (row["here"], row["exact"], row["fits"]) == (True, True, True)
    assert row["parameters"] == config.num_parameters
    assert row["cache_tokens"] == 2 * config.max_position_embeddings


def test_a_broken_model_does_not_hide_the_rest(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{")
    (row,) = json.loads(run("--json", "--model", str(tmp_path)))["models"]
    assert "cannot be read" in row["error"]
    assert "cannot be read" in run("--model", str(tmp_path))


def test_piped_output_is_plain_and_complete() -> None:
    text = run()
    assert text.isprintable() or all(c == "\n" or c.isprintable() for c in text)
    assert "\x1b" not in text
    assert not set("│─┃━╭") & set(text)
    lines = text.splitlines()
    for name in catalog():
        line = next(line for line in lines if line.startswith(name))
        assert "float" in line, f"the row of {name} is cut off"
    assert any(line.startswith("Kernels ") and "PyTorch's for " in line for line in lines)


def test_native_kernels_are_named_or_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    native = {"variant": "avx2", "why_not": None, "library": "/somewhere/_native.so"}
    monkeypatch.setattr(module, "native_kernels", lambda: native)
    text = run()
    assert "native for avx2; PyTorch's for " in text
    assert "Native kernels:" not in text
    assert json.loads(run("--json"))["kernels"] == native
    monkeypatch.setattr(
        module, "native_kernels", lambda: {"variant": None, "why_not": "not compiled; run x", "library": None}
    )
    text = run()
    assert "; no native ones" in text
    assert "Native kernels: not compiled; run x. Without them" in text


def test_an_unknown_model_is_refused_before_anything_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "examine", lambda model: pytest.fail("measured"))
    with pytest.raises(UnknownModel, match="smollm2-135m"):
        doctor("smollm2-135")


def test_notes_say_what_is_missing_and_what_it_would_change(monkeypatch: pytest.MonkeyPatch) -> None:
    avx2 = CPU("a processor", "x86_64", ("avx2",), 2, 2)
    monkeypatch.setattr(module.shutil, "which", lambda name: None)
    said = "\n".join(notes(avx2, gpu=False, why_not="not compiled", onednn=False, guards=["nothing keeps it"]))
    for subject in (
        "GPU: none",
        "Native kernels: not compiled.",
        "oneDNN",
        "bf16",
        "Code in training and evaluation: nothing keeps it.",
    ):
        assert subject in said
    monkeypatch.setattr(module.shutil, "which", lambda name: "/usr/bin/nvidia-smi")
    assert "built for CUDA" in notes(avx2, gpu=False, why_not=None, onednn=True, guards=[])[0]
    zen4 = CPU("a processor", "x86_64", ("avx512_bf16",), 2, 2)
    assert notes(zen4, gpu=True, why_not=None, onednn=True, guards=[]) == []


def test_what_the_sandbox_lacks_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("millet.tasks.sandbox.missing_guards", lambda: ["nothing keeps it from files"])
    assert "Code in training and evaluation: nothing keeps it from files. Grade only" in run("--model", "smollm2-135m")
