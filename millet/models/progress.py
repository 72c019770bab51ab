"""How long work tells whoever watches what it is doing."""

from __future__ import annotations

from collections.abc import Callable

# (what is happening, bytes done, bytes in all or None where that is not known)
Progress = Callable[[str, int, int | None], None]
