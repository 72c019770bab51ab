"""Sums, differences and products in columns, from the last digit on, with the result as far as it is known behind each.

Small models learn sums so from fewer examples than in one go (Lee et al., "Teaching arithmetic to small transformers",
2023); dev/LOG.md has what was found here so far.
"""

from __future__ import annotations


def total(a: int, b: int) -> str:
    """a+b, or a-|b| for a negative b, and what it comes to.

    146+577: 6+7=13 3, 4+7+1=12 23, 1+5+1=7 723
    62-80: 80-62: 0-2<0 10-2=8 8, 8-6-1=1 18, so -18
    """
    asked = f"{a}{'-' if b < 0 else '+'}{abs(b)}"
    result = a + b
    high, low = max(abs(a), abs(b)), min(abs(a), abs(b))
    plus = (a < 0) == (b < 0)
    if plus and len(str(high)) == len(str(low)):
        high, low = abs(a), abs(b)  # as they stand
    if max(high, low) < 10 or low == 0 or high == 0:
        return f"{asked}={result}"
    plain = f"{high}{'+' if plus else '-'}{low}"
    columns = _plus(high, low) if plus else _minus(high, low)
    lead = "" if asked == plain else f"{plain}: "
    size = abs(result)
    last = f", so {result}" if result < 0 or columns[-1].rpartition(" ")[2] != str(size) else ""
    return f"{asked}: {lead}{', '.join(columns)}{last}"


def _plus(high: int, low: int) -> list[str]:
    """The columns of high + low."""
    upper, lower, carry, known = str(high)[::-1], str(low)[::-1], 0, ""
    columns: list[str] = []
    for place, digit in enumerate(upper):
        if place >= len(lower) and not carry:
            return [*columns, f"then {str(high)[: len(upper) - place]}{known}"]
        parts = [digit, *lower[place : place + 1], *(["1"] if carry else [])]
        here = sum(map(int, parts))
        last = place == len(upper) - 1
        known = f"{here if last else here % 10}{known}"
        carry = here // 10
        columns.append(f"{'+'.join(parts)}={here} {known}")
    return columns


def _minus(high: int, low: int) -> list[str]:
    """The columns of high - low. One that is too small says so, then borrows ten from the next, which has one less."""
    upper, lower, borrowed, known = str(high)[::-1], str(low)[::-1], False, ""
    columns: list[str] = []
    for place, digit in enumerate(upper):
        if place >= len(lower) and not borrowed:
            return [*columns, f"then {str(high)[: len(upper) - place]}{known}"]
        parts = [digit, *lower[place : place + 1], *(["1"] if borrowed else [])]
        asked = "-".join(parts)
        here = int(digit) - sum(map(int, parts[1:]))
        borrowed = here < 0
        known = f"{here % 10}{known}"
        columns.append(f"{asked}<0 1{asked}={here + 10} {known}" if borrowed else f"{asked}={here} {known}")
    return columns


def by_digit(left: int, right: int) -> str:
    """left * right, of which right has one digit that is not 0.

    58*60: 8*6=48 8, 5*6+4=30+4=34 348, so 3480
    """
    digit = int(str(right)[0])
    zeros = len(str(right)) - 1
    if right in (0, 1) or left in (0, 10, 100, 1000) or (left < 10 and right < 10) or (digit == 1 and zeros):
        return f"{left}*{right}={left * right}"
    columns: list[str] = []
    carry, known = 0, ""
    for place, other in enumerate(reversed(str(left))):
        product = int(other) * digit
        text = f"{other}*{digit}+{carry}={product}+{carry}={product + carry}" if carry else f"{other}*{digit}={product}"
        here = product + carry
        known = f"{here if place == len(str(left)) - 1 else here % 10}{known}"
        carry = here // 10
        columns.append(f"{text} {known}")
    last = f", so {left * right}" if zeros else ""
    return f"{left}*{right}: {', '.join(columns)}{last}"
