"""Passwords, kept as argon2id. Each check takes 64 MB and about a tenth of a second, which is the point of it."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import ParamSpec, TypeVar

import anyio
from anyio import to_thread
from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from millet.serve.errors import ApiError

LEAST, MOST = 8, 1024  # characters
AT_ONCE = 2  # checks that run beside each other: 128 MB
WAITING = 32  # checks that may wait for their turn

P = ParamSpec("P")
R = TypeVar("R")

_hasher = PasswordHasher()


@cache
def _nobodys() -> str:
    """What the password of an account that does not exist is compared with, so that its absence takes as long."""
    return _hasher.hash("nobody")


def hash_password(password: str) -> str:
    """Raises ApiError 422 for one that is too short or too long."""
    if not LEAST <= len(password) <= MOST:
        raise ApiError(422, f"a password has {LEAST} to {MOST} characters; choose another", param="password")
    return _hasher.hash(password.encode("utf-8", "replace"))


def is_password(password: str, stored: str | None) -> bool:
    """stored: None where there is nobody to compare with."""
    try:
        right = _hasher.verify(stored or _nobodys(), password[: MOST + 1].encode("utf-8", "replace"))
    except (VerificationError, InvalidHashError):
        return False
    return right and stored is not None


def is_outdated(stored: str) -> bool:
    """Whether it was made with other parameters than are used today, and should be made anew at the next sign-in."""
    return _hasher.check_needs_rehash(stored)


class Slots:
    """Where functions that check passwords run from an event loop: a few threads, beside those that all else uses."""

    def __init__(self) -> None:
        self._limiter = anyio.CapacityLimiter(AT_ONCE)

    async def run(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Raises ApiError 503 where too many wait already, and what the function raises."""
        if self._limiter.statistics().tasks_waiting >= WAITING:
            raise ApiError(503, "too many people are signing in at once; try again in a moment", retry_after=5)
        return await to_thread.run_sync(lambda: function(*args, **kwargs), limiter=self._limiter)
