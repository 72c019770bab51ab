"""The web app as it was built, or the reason why there is nothing to test."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
WEB = ROOT / "millet/serve/web"


def built_app() -> Path:
    """Its folder. What was built of other sources would be another app, and is none."""
    if subprocess.run([sys.executable, ROOT / "scripts/web.py", "--check"]).returncode != 0:
        reason = "the web app is not built of these sources; run make web"
        if os.environ.get("MILLET_WEB") == "required":
            pytest.fail(reason)
        pytest.skip(reason)
    return WEB
