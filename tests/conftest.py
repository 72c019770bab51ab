"""Fixtures shared by all tests."""

import os
import secrets
import signal
from pathlib import Path

import pytest

from millet.kernels.native import library


def pytest_configure() -> None:
    """Ctrl-C reaches the programs that tests start, also where the tests themselves run in a shell's background."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


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
    """The default model's GGUF file: MILLET_TEST_SMOLLM2, or where it was pulled to, or pulled now if it can be."""
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
