"""Fixtures shared by all tests."""

import secrets

import pytest


@pytest.fixture
def seed() -> int:
    """A fresh seed for this run, printed so that a failure can be repeated."""
    value = secrets.randbelow(2**31)
    print(f"seed = {value}")
    return value
