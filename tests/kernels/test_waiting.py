import os
import subprocess
import sys

import pytest

from millet.kernels.waiting import SPINS, wait_briefly


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ({}, {"GOMP_SPINCOUNT": str(SPINS)}),
        ({"GOMP_SPINCOUNT": "7"}, {"GOMP_SPINCOUNT": "7"}),
        ({"OMP_WAIT_POLICY": "active"}, {"OMP_WAIT_POLICY": "active"}),
    ],
)
def test_what_the_user_has_set_stays(given: dict[str, str], found: dict[str, str]) -> None:
    wait_briefly(given)
    assert given == found


def test_training_says_it_before_pytorch_is_loaded() -> None:
    """OpenMP reads it once, when it is loaded."""
    program = """
import sys
import millet.kernels.waiting
def said():
    assert "torch" not in sys.modules
    print("said")
    raise SystemExit
millet.kernels.waiting.wait_briefly = said
from millet.cli.main import main
sys.argv = ["millet", "train", "missing.toml"]
main()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=os.environ, check=False)
    assert done.stdout == "said\n", done.stderr
