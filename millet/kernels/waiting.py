"""How long PyTorch's helper threads wait actively for more work; to be said before PyTorch is loaded."""

from __future__ import annotations

import os
from collections.abc import MutableMapping

SPINS = 10_000  # about 30 microseconds; without a limit of ours, GNU's OpenMP spins for a millisecond


def wait_briefly(environment: MutableMapping[str, str] = os.environ) -> None:
    """Leave the cores to the native kernels soon after each of PyTorch's operations, unless the user set it otherwise.

    A trainer changes between the two all the time. Helpers that still spin take a core from the kernels' own threads:
    measured on two cores, a forward of 2.4 instead of 2.0 seconds.
    """
    if "OMP_WAIT_POLICY" not in environment:
        environment.setdefault("GOMP_SPINCOUNT", str(SPINS))
