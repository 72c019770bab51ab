"""What is shipped as an adapter is in every wheel and sdist, weights included."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.packaging.built import ROOT

FILES = ("adapter_config.json", "adapter_model.safetensors", "chat_template.jinja", "lineage.json", "README.md")
PARTS = ("pyproject.toml", "hatch_build.py", "README.md", "LICENSE", ".gitignore", "millet/__init__.py")


@pytest.mark.parametrize("kind", ["wheel", "sdist"])
def test_a_shipped_adapter_is_packed(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree, out = tmp_path / "tree", tmp_path / "out"
    for part in PARTS:
        (tree / part).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / part, tree / part)
    for name in FILES:
        path = tree / "millet/models/adapters/toy" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    (tree / "millet/models/else.safetensors").write_text("what git ignores")
    monkeypatch.setenv("MILLET_WEB", "off")
    monkeypatch.setenv("MILLET_NATIVE", "off")
    code = f"import hatchling.build; hatchling.build.build_{kind}({str(out)!r})"
    done = subprocess.run([sys.executable, "-c", code], cwd=tree, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (path,) = out.iterdir()
    if kind == "wheel":
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    else:
        with tarfile.open(path) as archive:
            names = [name.partition("/")[2] for name in archive.getnames()]
    assert {name for name in names if name.startswith("millet/models/")} == {
        f"millet/models/adapters/toy/{name}" for name in FILES
    }
