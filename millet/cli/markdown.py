"""An answer in Markdown as lines for the terminal, block by block, so that a stream can print what is final.

Departs from CommonMark where that would lose what a reasoning model wrote: HTML and link definitions are text; line
breaks stay; a link shows its address; `2*3*4` and `x**2 + y**2` are arithmetic, not emphasis; LaTeX stays as written.
"""

from __future__ import annotations

import re
from itertools import pairwise
from typing import ClassVar

import rich.markdown
from markdown_it import MarkdownIt
from markdown_it.rules_core import StateCore
from markdown_it.rules_inline import StateInline
from rich.console import Console, ConsoleOptions, RenderResult
from rich.segment import Segment
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

from millet.cli.terminal import clean

Line = list[Segment]

NARROWEST = (
    20  # columns; nested lists and tables cannot be laid out below this, so narrower terminals wrap by themselves
)

_TIMES = re.compile(r"(?<=[A-Za-z0-9)\]])\*{1,2}(?=[A-Za-z0-9(\[\\])")
_LATEX = re.compile(r"\\\(.+?\\\)|\\\[.+?\\\]|\$\$.+?\$\$|\$(?=\S)[^$\n]*?(?<=\S)\$(?!\d)", re.DOTALL)


def _times(state: StateInline, silent: bool) -> bool:
    """Inline rule: one or two stars between ASCII letters, digits or brackets multiply or raise to a power."""
    return _as_written(state, _TIMES.match(state.src, state.pos), silent)


def _latex(state: StateInline, silent: bool) -> bool:
    r"""Inline rule: `\(x\)`, `\[x\]`, `$x$` and `$$x$$` stay as written, backslashes and stars included."""
    return _as_written(state, _LATEX.match(state.src, state.pos), silent)


def _as_written(state: StateInline, match: re.Match[str] | None, silent: bool) -> bool:
    if match is None:
        return False
    if not silent:
        state.push("text", "", 0).content = match.group()
    state.pos = match.end()
    return True


def _keep_line_breaks(state: StateCore) -> None:
    """Core rule: a line break in the source is a line break on the screen."""
    for token in state.tokens:
        for child in token.children or ():
            if child.type == "softbreak":
                child.type = "hardbreak"


_PARSER = MarkdownIt("commonmark", {"html": False}).enable(["table", "strikethrough"]).disable(["image", "reference"])
_PARSER.inline.ruler.before("escape", "latex", _latex)
_PARSER.inline.ruler.before("emphasis", "times", _times)
_PARSER.core.ruler.push("keep_line_breaks", _keep_line_breaks)


class _Heading(rich.markdown.Heading):
    """A heading at the left margin, whatever its level."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield self.text


class _Item(rich.markdown.ListItem):
    """A list item with "1." where rich writes "1", and room for text however deep the list."""

    def render_bullet(self, console: Console, options: ConsoleOptions) -> RenderResult:
        return self._after(console, options, Segment("• ", console.get_style("markdown.item.bullet")))

    def render_number(self, console: Console, options: ConsoleOptions, number: int, last_number: int) -> RenderResult:
        width = len(f"{last_number}. ")
        return self._after(
            console, options, Segment(f"{number}. ".rjust(width), console.get_style("markdown.item.number"))
        )

    def _after(self, console: Console, options: ConsoleOptions, marker: Segment) -> RenderResult:
        width = max(NARROWEST // 2, options.max_width - marker.cell_length)
        for index, line in enumerate(console.render_lines(self.elements, options.update(width=width), pad=False)):
            yield Segment(" " * marker.cell_length) if index else marker
            yield from line
            yield Segment.line()


class _Code(rich.markdown.CodeBlock):
    """A code block without frame, indent or background, so that it can be copied from the screen."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Syntax(
            str(self.text).rstrip(), self.lexer_name, theme=self.theme, word_wrap=True, background_color="default"
        )


class _Table(rich.markdown.TableElement):
    """A table that folds cells that are too wide, where rich would cut them."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for table in super().__rich_console__(console, options):
            if isinstance(table, Table):
                for column in table.columns:
                    column.overflow = "fold"
            yield table


class _Markdown(rich.markdown.Markdown):
    elements: ClassVar[dict[str, type[rich.markdown.MarkdownElement]]] = {
        **rich.markdown.Markdown.elements,
        "heading_open": _Heading,
        "list_item_open": _Item,
        "fence": _Code,
        "code_block": _Code,
        "table_open": _Table,
    }

    def __init__(self, markup: str) -> None:
        super().__init__("", code_theme="ansi_dark", hyperlinks=False)
        self.parsed = _PARSER.parse(markup)


def split_finished(text: str) -> tuple[list[str], str]:
    """The top-level blocks that later text can no longer change, and the rest.

    The rest begins with the last block that complete lines opened: a line still being written may turn out to be
    something else (`***` is a rule, `***bold***` is not).
    """
    complete = text.rfind("\n") + 1
    *finished, last = _blocks(text[:complete])
    return finished, last + text[complete:]


def _blocks(text: str) -> list[str]:
    """The top-level blocks of the text, each with the blank lines below it; at least one, which may be empty."""
    starts = {token.map[0] for token in _PARSER.parse(text) if token.level == 0 and token.map}
    lines = re.split(r"(?<=\n)", text)  # not splitlines, which knows more line breaks than Markdown does
    cuts = [*sorted(starts), len(lines)] if starts else [0, len(lines)]
    return ["".join(lines[start:end]) for start, end in pairwise(cuts)]


def markdown_lines(console: Console, text: str) -> list[Line]:
    """The Markdown text as lines of styled segments, no wider than the console, with a blank line between blocks."""
    lines: list[Line] = []
    for block in _blocks(clean(text)):
        page = _block_lines(console, block)
        lines += [[], *page] if lines and page else page
    return lines


def _block_lines(console: Console, text: str) -> list[Line]:
    """One block; as it was written where a layout finds no room for it (too deep a list, too many columns)."""
    lines = _lines(console, _Markdown(text))
    shown = sum(_letters(segment.text) for line in lines for segment in line)
    return lines if 2 * shown >= _letters(text) else text_lines(console, text)


def text_lines(console: Console, text: str, style: str = "") -> list[Line]:
    """Plain text as wrapped lines of styled segments."""
    return _lines(console, Text(clean(text), style=style))


def _letters(text: str) -> int:
    return sum(map(str.isalnum, text))


def _lines(console: Console, renderable: _Markdown | Text) -> list[Line]:
    options = console.options.update(width=max(NARROWEST, console.width), height=None)
    lines = [_trim(line) for line in console.render_lines(renderable, options, pad=False)]
    filled = [index for index, line in enumerate(lines) if line]
    return lines[filled[0] : filled[-1] + 1] if filled else []


def _trim(line: Line) -> Line:
    """The line cleaned once more (Markdown entities can make new characters), links dropped, trailing spaces cut."""
    segments = [Segment(clean(text).replace("\n", ""), style and style.update_link(None)) for text, style, _ in line]
    while segments and not segments[-1].text.rstrip():
        segments.pop()
    if segments:
        segments[-1] = Segment(segments[-1].text.rstrip(), segments[-1].style)
    return segments
