"""Weekdays and counts of days: whole weeks do not matter, and the days that are left are walked."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from typing import Any

from millet.tasks.worked.arithmetic import short_division
from millet.tasks.worked.dates import DAYS, days_between, month, walk, weeks
from millet.tasks.worked.unworked import Unworked, came_to


def calendar_arithmetic(entry: Mapping[str, Any]) -> list[str]:
    known, lines = entry["metadata"], list[str]()
    match known["task"]:
        case "weekday_offset":
            found: object = _offset(known, lines)
        case "weekday_of_date":
            found = _of_date(known, lines)
        case "weekday_of_date_from_first_date":
            found = _from_first(known, lines)
        case "recurring_event_day":
            found = _recurring(known, lines)
        case "count_days":
            found = _count(known, entry["question"], lines)
        case "count_business_days":
            found = _business(known, lines)
        case "is_leap_year":
            found = _leap(known["year"], lines)
        case other:
            raise Unworked(f"no solution for {other}")
    came_to(found, entry["answer"])
    return lines


def _offset(known: Mapping[str, Any], lines: list[str]) -> str:
    start = DAYS[date.fromisoformat(known["start_date"]).weekday()]
    text, rest = weeks(abs(known["offset_days"]))
    return _walked(start, text, rest if known["offset_days"] > 0 else -rest, lines)


def _walked(start: str, text: str, steps: int, lines: list[str]) -> str:
    lines.append(text)
    way = "on" if steps >= 0 else "back"
    path = walk(start, steps)
    lines.append(f"{start} and {abs(steps)} {way}: {_numbered(path, 1) or start}")
    return path[-1] if path else start


def _numbered(days: Sequence[str], first: int) -> str:
    return ", ".join(f"{day} {n}" for n, day in enumerate(days, first))


def _of_date(known: Mapping[str, Any], lines: list[str]) -> str:
    asked = date.fromisoformat(known["target_date"])
    first = DAYS[asked.replace(day=1).weekday()]
    lines.append(f"{month(asked.month)} 1, {asked.year} was a {first}")
    text, rest = weeks(asked.day - 1)
    return _walked(first, f"{asked.day}-1={text}", rest, lines)


def _from_first(known: Mapping[str, Any], lines: list[str]) -> str:
    asked = date.fromisoformat(known["target_date"])
    days = days_between(date(asked.year, 1, 1), asked, lines)
    text, rest = weeks(days)
    return _walked(known["first_day"], text, rest, lines)


def _recurring(known: Mapping[str, Any], lines: list[str]) -> int:
    first = date(known["year"], known["month"], 1)
    start, wanted = DAYS[first.weekday()], known["weekday"]
    offset = (DAYS.index(wanted) - first.weekday()) % 7
    lines.append(f"{month(first.month)} 1, {first.year} was a {start}")
    lines.append(f"{_numbered([start, *walk(start, offset)], 1)}: first {wanted} {1 + offset}")
    last = ((first.replace(day=28) + timedelta(days=4)).replace(day=1) - timedelta(days=1)).day
    all_days = list(range(1 + offset, last + 1, 7))
    if known["ordinal"] == "last":
        lines.append(f"{month(first.month)} has {last} days: {', '.join(map(str, all_days))}")
        return all_days[-1]
    number = ("first", "second", "third", "fourth").index(known["ordinal"])
    if number:
        lines.append(f"{known['ordinal']}: {', '.join(map(str, all_days[: number + 1]))}")
    return all_days[number]


def _count(known: Mapping[str, Any], question: str, lines: list[str]) -> int:
    start, end = date.fromisoformat(known["start_date"]), date.fromisoformat(known["end_date"])
    found = re.search(rf"(?:many|occurrences of|times does) ({'|'.join(DAYS)})", question)
    if found is None:
        raise Unworked("the weekday is not to be found")
    days = days_between(start, end, lines)
    wanted, first = found[1], DAYS[start.weekday()]
    offset = (DAYS.index(wanted) - start.weekday()) % 7
    lines.append(f"{_numbered([first, *walk(first, offset)], 0)}: first {wanted} {offset} on")
    if offset > days:
        lines.append(f"{offset} is after {days}: none")
        return 0
    text, _ = weeks(days - offset)
    count = (days - offset) // 7 + 1
    lines.append(f"{days}-{offset}={text}, so {count - 1}+1={count}")
    return count


def _business(known: Mapping[str, Any], lines: list[str]) -> int:
    start, end = date.fromisoformat(known["start_date"]), date.fromisoformat(known["end_date"])
    days = days_between(start, end, lines) + 1
    text, rest = weeks(days)
    whole = 5 * (days // 7)
    lines.append(f"both ends: {days - 1}+1={text}, so {days // 7}*5={whole}")
    work, left = 0, []
    for day in [DAYS[(start.weekday() + n) % 7] for n in range(rest)]:
        work += day not in DAYS[5:]
        left.append(day if day in DAYS[5:] else f"{day} {work}")
    lines.append(f"{rest} more: {', '.join(left) or 'none'}")
    lines.append(f"{whole}+{work}={whole + work}")
    return whole + work


def _leap(year: int, lines: list[str]) -> str:
    tested = year % 100 or year // 100
    text = ", ".join(short_division(tested, 4))
    lines.append(text if year % 100 else f"{year} ends in 00, so {tested} must be a multiple of 4: {text}")
    lines.append("not a multiple of 4, no leap year" if tested % 4 else "a multiple of 4, a leap year")
    return "No" if tested % 4 else "Yes"
