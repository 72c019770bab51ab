"""Days from one date to another, month by month."""

from __future__ import annotations

import calendar
from datetime import date

from millet.tasks.worked.arithmetic import short_division
from millet.tasks.worked.columns import total

DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


def days_between(start: date, end: date, lines: list[str]) -> int:
    """How many days after `start` the later date `end` is; the working is appended to `lines`."""
    count = (end - start).days
    if (start.year, start.month) == (end.year, end.month):
        lines.append(f"{total(end.day, -start.day)}, days")
        return count
    last = calendar.monthrange(start.year, start.month)[1]
    leap = " in a leap year" if start.month == 2 and last == 29 else ""
    so_far = last - start.day
    lines.append(f"{month(start.month)} has {last} days{leap}: {total(last, -start.day)}")
    year, at = start.year, start.month
    while True:
        year, at = (year + 1, 1) if at == 12 else (year, at + 1)
        whole = (year, at) != (end.year, end.month)
        days = calendar.monthrange(year, at)[1] if whole else end.day
        leap = " in a leap year" if whole and at == 2 and days == 29 else ""
        lines.append(f"{month(at)} {days}{leap}: {total(so_far, days)}")
        so_far += days
        if not whole:
            return count


def month(number: int) -> str:
    return calendar.month_name[number]


def weeks(days: int) -> tuple[str, int]:
    """days=7*q+r, and r. Long ones digit by digit.

    weeks(53): "53=49+4=7*7+4", 4
    weeks(81): "81: 8=7+1=7*1+1, 11=7+4=7*1+4, so 81=7*11+4", 4
    """
    steps = short_division(days, 7)
    text = steps[0] if len(steps) == 1 else f"{days}: {', '.join(steps)}, so {days}=7*{days // 7}+{days % 7}"
    return text, days % 7


def walk(start: str, steps: int) -> list[str]:
    """The weekdays after `start`, or before it for negative steps."""
    at, step = DAYS.index(start), 1 if steps > 0 else -1
    return [DAYS[(at + step * n) % 7] for n in range(1, abs(steps) + 1)]
