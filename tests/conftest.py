"""Fixtures shared by all tests."""

import os
import secrets
import signal
from pathlib import Path

import hypothesis
import pytest
import torch

from millet.kernels.cpu import read_cpu
from millet.kernels.native import library

# No test has a threshold on time: a machine may have other things to do.
hypothesis.settings.register_profile("untimed", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("untimed")

MOST_WORKERS = 8  # of `pytest -n auto`; each takes some 2 GB


def pytest_configure(config: pytest.Config) -> None:
    """Ctrl-C reaches the programs that tests start, also where the tests themselves run in a shell's background.

    Workers of `pytest -n` share the cores, and so do the programs that they start: threads that wait for each other by
    spinning must not outnumber the cores.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if workers := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 0)):
        threads = max(1, read_cpu().cores // workers)
        os.environ["OMP_NUM_THREADS"] = str(threads)
        torch.set_num_threads(threads)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """One for each core that this process may use, container limits included."""
    return min(read_cpu().cores, MOST_WORKERS)


@pytest.fixture
def seed() -> int:
    """A fresh seed for this run, printed so that a failure can be repeated."""
    value = secrets.randbelow(2**31)
    print(f"seed = {value}")
    return value


@pytest.fixture
def without_native(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine without the native kernels: PyTorch computes everything."""
    monkeypatch.setattr(library, "_open", lambda: "switched off by a test")


@pytest.fixture
def with_native() -> None:
    """Skips the test where there are no native kernels."""
    if reason := library.why_not():
        pytest.skip(f"no native kernels: {reason}")


@pytest.fixture(params=["native", "torch"])
def way(request: pytest.FixtureRequest) -> str:
    """The test runs with the native kernels, and without them."""
    way: str = request.param
    request.getfixturevalue("with_native" if way == "native" else "without_native")
    return way


@pytest.fixture(scope="session")
def smollm2_path() -> Path:
    """SmolLM2's GGUF file: MILLET_TEST_SMOLLM2, or where it was pulled to, or pulled now if it can be."""
    if given := os.environ.get("MILLET_TEST_SMOLLM2"):
        return Path(given)
    from millet.errors import MilletError
    from millet.models import hub

    path = hub.locate("smollm2-135m")
    if path is None:
        try:
            path = hub.pull("smollm2-135m")
        except MilletError as error:
            pytest.skip(f"SmolLM2 is not here and cannot be pulled: {error}")
    return next(path.glob("*.gguf")) if path.is_dir() else path
