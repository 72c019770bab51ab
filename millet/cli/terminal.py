"""What this terminal can show: its abilities, its encoding, and text that cannot take control of it."""

from __future__ import annotations

import codecs
import io
import os
import sys
import termios
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.theme import Theme

# Control characters (C0, delete, C1) become visible signs, so that model text cannot move the cursor, retitle the
# window or fill the clipboard. Newline and tab stay; a carriage return goes, as it only ever comes with a newline.
# Lone surrogates cannot be written at all. Bidirectional overrides would show text in an order that it does not have.
_HARMLESS: dict[int, int | str | None] = {code: 0x2400 + code for code in range(0x20) if chr(code) not in "\n\t\r"}
_HARMLESS |= {ord("\r"): None, 0x7F: 0x2421, 0x2028: "\n", 0x2029: "\n"}
_HARMLESS |= dict.fromkeys([*range(0x80, 0xA0), *range(0xD800, 0xE000), *range(0x202A, 0x202F)], 0xFFFD)

# What a stream that cannot encode a character gets instead (the rest is taken apart by Unicode: é becomes e).
_LOOKALIKES = {"•": "*", "·": ".", "–": "-", "—": "-", "−": "-", "×": "x", "÷": "/", "≤": "<=", "≥": ">=", "≠": "!="}
_LOOKALIKES |= {"‘": "'", "’": "'", "“": '"', "”": '"', "→": "->", "⇒": "=>", "√": "sqrt", "─": "-", "│": "|"}

# Only the sixteen colours that the person chose for the terminal, and no backgrounds: readable on light and on dark.
THEME = Theme(
    {
        "markdown.h1": "bold underline",
        "markdown.h2": "bold",
        "markdown.h3": "bold",
        "markdown.h4": "italic",
        "markdown.code": "cyan",
        "markdown.code_block": "none",
        "markdown.block_quote": "dim",
        "markdown.link": "none",
        "markdown.link_url": "underline",
        "markdown.item.bullet": "cyan",
        "markdown.item.number": "cyan",
    }
)


def clean(text: str) -> str:
    """The text with every control character except newline and tab made visible and harmless."""
    return text.translate(_HARMLESS)


def console(*, stderr: bool = False) -> Console:
    """A console on standard output (or error) that interprets no markup and writes whatever it can in its encoding."""
    stream = sys.stderr if stderr else sys.stdout
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="millet-lookalike")
    return Console(stderr=stderr, theme=THEME, markup=False, emoji=False, highlight=False)


def can_repaint(console: Console) -> bool:
    """Whether lines can be painted again in place: a real terminal (not TERM=dumb) with a Unicode encoding.

    The file is asked, not rich, for which FORCE_COLOR makes a terminal of a pipe.
    """
    return console.file.isatty() and not console.is_dumb_terminal and console.encoding.lower().startswith("utf")


@contextmanager
def no_echo() -> Iterator[None]:
    """Keys pressed meanwhile are kept for the next prompt, and not shown in the middle of what is being painted."""
    if not _in_foreground():
        yield
        return
    terminal = sys.stdin.fileno()
    before = termios.tcgetattr(terminal)
    quiet = termios.tcgetattr(terminal)
    quiet[3] &= ~termios.ECHO
    termios.tcsetattr(terminal, termios.TCSADRAIN, quiet)
    try:
        yield
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)


def _in_foreground() -> bool:
    """Whether standard input is a terminal that this program may change; one in the background would be stopped."""
    try:
        return sys.stdin is not None and os.tcgetpgrp(sys.stdin.fileno()) == os.getpgrp()
    except OSError:  # no terminal, or not the one that controls this program
        return False


def _lookalike(error: UnicodeError) -> tuple[str, int]:
    """Codec error handler: the nearest ASCII text, or a question mark for each character that has none."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    plain = ""
    for character in error.object[error.start : error.end]:
        apart = unicodedata.normalize("NFKD", _LOOKALIKES.get(character, character))
        plain += apart.encode("ascii", "ignore").decode() or "?"
    return plain, error.end


codecs.register_error("millet-lookalike", _lookalike)
