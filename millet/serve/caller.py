"""Who asks, and what they may use."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Role = Literal["admin", "member"]


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one key; None sets no limit. spend_per_day is in the currency of the configured prices, in UTC days."""

    concurrency: int | None = None
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    spend_per_day: float | None = None


@dataclass(frozen=True, slots=True)
class Caller:
    """account: whom the queue is fair to, and whose usage is counted. key: the API key's id; None in a browser session
    and in one-person mode. The limits are the key's, or the account's where it came without a key."""

    account: str
    role: Role = "member"
    key: str | None = None
    limits: Limits = field(default_factory=Limits)


LOCAL = Caller("local", role="admin")
"""The one person of one-person mode."""
