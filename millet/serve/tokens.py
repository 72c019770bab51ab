"""Secrets that we hand out: random, and kept as their SHA-256 alone. With 256 random bits no slow hash is needed."""

from __future__ import annotations

import hashlib
import hmac
import secrets


def new_token() -> str:
    return secrets.token_urlsafe(32)


def digest(token: str) -> str:
    """What is stored, and looked up by."""
    return hashlib.sha256(token.encode("utf-8", "replace")).hexdigest()


def same(given: str, expected: str) -> bool:
    """In a time that does not tell how much of it was right."""
    return hmac.compare_digest(given.encode("utf-8", "replace"), expected.encode("utf-8", "replace"))
