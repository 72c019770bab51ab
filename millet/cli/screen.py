"""The lower edge of a terminal: lines that scroll up for good, and a few below them that are painted again in place."""

from __future__ import annotations

from rich.console import Console
from rich.control import Control
from rich.segment import ControlType, Segment, Segments

from millet.cli.markdown import Line


class Screen:
    """Paints a growing text whose end may still change. Nothing is repainted that has scrolled up.

    A part that is still open but taller than the terminal gives up its top lines as they stand. Each change is one
    write; only lines that differ are painted. After a resize the terminal has folded the old lines at the new width,
    which the next `show` takes into account.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self._painted: list[Line] = []  # the live lines on the screen; the cursor is at the end of the last one
        self._width = console.width
        self._given_up = 0  # lines of the open part that have already scrolled up

    def show(self, final: list[Line], live: list[Line] | None = None) -> None:
        """Show the open part: its `final` lines leave it for good, `live` replaces what was live before.

        Lines of the open part that were given up earlier are not shown again.
        """
        if self.console.width != self._width:
            self._given_up = 0  # counted at the old width: rather show lines twice than lose some
        lines = [*final, *(live or [])]
        leaving = max(len(final), len(lines) - max(1, self.console.height - 1))
        new = lines[self._given_up :]
        fresh = max(0, leaving - self._given_up)  # lines that scroll up now
        self._given_up = max(self._given_up, leaving) - len(final)
        if new == self._painted and not fresh:
            return
        with self.console:
            same = self._erase_after_common_start(new)
            self._print(new[same:], newline_after=fresh - same)
        self._painted = new[fresh:]
        self._width = self.console.width

    def _erase_after_common_start(self, new: list[Line]) -> int:
        """Move to the first painted line that differs from the new ones, erase from there; its index is returned."""
        same = 0
        if self.console.width == self._width:
            while same < min(len(self._painted), len(new)) and self._painted[same] == new[same]:
                same += 1
        # The cursor is at the end of the last painted line, so that one has to be painted again to go on from there.
        same = max(0, min(same, len(self._painted) - 1, len(new) - 1))
        rows = sum(self._rows(line) for line in self._painted[same:])
        if rows:
            up = ((ControlType.CURSOR_UP, 1), (ControlType.ERASE_IN_LINE, 2)) * (rows - 1)
            self.console.control(Control(ControlType.CARRIAGE_RETURN, (ControlType.ERASE_IN_LINE, 2), *up))
        return same

    def _rows(self, line: Line) -> int:
        """How many rows of the terminal a painted line takes at its present width."""
        return max(1, -(-Segment.get_line_length(line) // max(1, self.console.width)))

    def _print(self, lines: list[Line], newline_after: int) -> None:
        """Print lines; the cursor stays at the end of the last one, unless it is among the first `newline_after`."""
        for index, line in enumerate(lines):
            self.console.print(Segments(line), end="", crop=False, soft_wrap=True)
            if index < len(lines) - 1 or index < newline_after:
                self.console.print()

    def close(self) -> None:
        """Leave what is live where it is, and begin a new line below it."""
        if self._painted:
            self.console.print()
        self._painted = []
        self._given_up = 0
