"""Server-sent events, as text."""

from __future__ import annotations

import json
from typing import Any

# JSON allows these inside a string, and clients that split text into lines with Unicode's rules would break there.
LINE_BREAKS = {0x85: "\\u0085", 0x2028: "\\u2028", 0x2029: "\\u2029"}


_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode  # kept: this runs for each token


def to_json(value: Any) -> str:
    """Compact, on one line by everyone's reckoning."""
    text = _encode(value)
    return text if text.isascii() else text.translate(LINE_BREAKS)


def sse(data: dict[str, Any]) -> str:
    """One event, named by its data's `type`."""
    return f"event: {data['type']}\ndata: {to_json(data)}\n\n"
