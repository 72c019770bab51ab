"""Who asks, and what they may use."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Role = Literal["admin", "member"]


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one key, or of an account with all its keys; None sets no limit. spend_per_day is in the currency of the
    configured prices, in UTC days."""

    concurrency: int | None = None
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    spend_per_day: float | None = None


@dataclass(frozen=True, slots=True)
class Caller:
    """account: whom the queue is fair to, and whose usage is counted. key: the API key's id; None in a browser session
    and in one-person mode. limits: the key's, or the account's where it came without a key. of_account: behind a key,
    the account's, for all its keys together; else more keys would be more of everything."""

    account: str
    role: Role = "member"
    key: str | None = None
    limits: Limits = field(default_factory=Limits)
    of_account: Limits = field(default_factory=Limits)


LOCAL = Caller("local", role="admin")
"""The one person of one-person mode."""
