"""From one time to another: part by part from the smallest, borrowing where one is too small; days by the calendar."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from millet.tasks.worked.columns import total
from millet.tasks.worked.dates import days_between, month
from millet.tasks.worked.unworked import Unworked, came_to


def time_intervals(entry: Mapping[str, Any]) -> list[str]:
    known = entry["metadata"]
    start, end = (datetime.fromisoformat(known[name]) for name in ("start_time", "end_time"))
    lines: list[str] = []
    if start.tzinfo is not None:
        start, end = _in_utc(start, "start", lines), _in_utc(end, "end", lines)
    if end < start:
        raise Unworked("it ends before it starts")
    days = known["expected_format"].startswith("D days")
    parts = known["expected_format"].removeprefix("D days").removeprefix(", ")
    if parts:
        lines.append(f"from {_clock_time(start)} to {_clock_time(end)}")
    borrowed = days and bool(parts) and end.time() < start.time()
    clock = _clock(start, end, parts, lines) if parts else ""
    if not days:
        came_to(clock, entry["answer"])
        return lines
    if borrowed:
        end -= timedelta(days=1)
        lines.append(f"one day borrowed: to {month(end.month)} {end.day}")
    count = days_between(start.date(), end.date(), lines)
    came_to(f"{count} days" + (f", {clock}" if parts else ""), entry["answer"])
    return lines


def _clock_time(at: datetime) -> str:
    return f"{at:%H:%M:%S}" + (f".{at.microsecond // 1000:03d}" if at.microsecond else "")


def _in_utc(at: datetime, name: str, lines: list[str]) -> datetime:
    """Without its offset, which is taken off."""
    offset = at.utcoffset()
    assert offset is not None
    hours = round(offset.total_seconds() / 3600)
    moved = at.astimezone(UTC).replace(tzinfo=None)
    sign = "-" if hours >= 0 else "+"
    line = f"{name}: {at.hour}{sign}{abs(hours)}={at.hour - hours}"
    if moved.date() != at.date():
        back = moved.date() < at.date()
        hour = at.hour - hours
        line += f", {hour}{'+' if back else '-'}24={moved.hour} on {month(moved.month)} {moved.day}"
    lines.append(f"{line}, {moved:%H:%M:%S}")
    return moved


def _clock(start: datetime, end: datetime, parts: str, lines: list[str]) -> str:
    """The difference of the times of day, as `parts` says (HH:MM, HH:MM:SS or HH:MM:SS.mmm)."""
    # What the answer does not show is part of it all the same, where the question gives it.
    units = [("hours", start.hour, end.hour, 24), ("minutes", start.minute, end.minute, 60)]
    if "SS" in parts or start.second or end.second:
        units.append(("seconds", start.second, end.second, 60))
    if "mmm" in parts:
        units.append(("milliseconds", start.microsecond // 1000, end.microsecond // 1000, 1000))
    values, carry = [], 0
    for name, low, high, base in reversed(units):
        need, borrowed = low + carry, int(high < low + carry)
        steps = [total(low, carry)] if carry else []
        steps += [f"{high}-{need}<0", total(high, base)] if borrowed else []
        steps.append(total(high + base * borrowed, -need))
        values.append(high + base * borrowed - need)
        carry = borrowed
        lines.append(f"{name}: {'; '.join(steps)}")
    values.reverse()
    text = f"{values[0]:02d}:{values[1]:02d}"
    if "SS" in parts:
        text += f":{values[2]:02d}"
    if "mmm" in parts:
        text += f".{values[3]:03d}"
    return text
