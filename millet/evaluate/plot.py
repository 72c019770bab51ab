"""Small plots as inline SVG: estimates with their intervals, a curve, a distribution. Colours are the page's."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import count

from millet.evaluate.bootstrap import Estimate
from millet.evaluate.page import escape

WIDTH = 720
LABELS = 230  # room for the labels at the left of intervals
ROW = 30
HEIGHT = 220  # of curves and distributions
LONGEST = 32  # characters of a label
KINDS = ("first", "second")


def intervals(
    caption: str, rows: Sequence[tuple[str, Sequence[Estimate | None]]], low: float, high: float, names: Sequence[str]
) -> str:
    """One line for each row, with an estimate of each of one or two series, in per cent of `low` to `high`.

    names: of the series; the first is shown by dots, the second by squares.
    """
    top, left, right = 26, LABELS, WIDTH - 20
    height = top + ROW * len(rows) + 26

    def x(value: float) -> float:
        return left + (right - left) * (min(max(value, low), high) - low) / (high - low)

    parts = []
    for tick in _ticks(low, high):
        kind = "axis" if tick == 0 and low < 0 else "grid"
        parts.append(f'<line class="{kind}" x1="{x(tick):.1f}" x2="{x(tick):.1f}" y1="{top}" y2="{height - 24}"/>')
        parts.append(_text(x(tick), height - 8, f"{100 * tick:g}", "middle", "quiet"))
    for index, name in enumerate(names if len(names) > 1 else ()):
        parts.append(_mark(KINDS[index], left + 150 * index + 6, 10))
        parts.append(_text(left + 150 * index + 18, 15, _short(name)))
    for number, (label, estimates) in enumerate(rows):
        middle = top + ROW * (number + 0.5)
        parts.append(_text(0, middle + 4, _short(label)))
        for index, estimate in enumerate(estimates):
            if estimate is None:
                continue
            y = middle + 10 * (index - (len(estimates) - 1) / 2)
            kind = KINDS[index]
            parts.append(
                f'<line class="{kind}" x1="{x(estimate.low):.1f}" x2="{x(estimate.high):.1f}" y1="{y}" y2="{y}"/>'
            )
            parts.append(_mark(kind, x(estimate.value), y))
    return _figure(caption, height, parts)


def curve(caption: str, points: Mapping[int, Estimate], label: str) -> str:
    """Shares by a number that doubles from point to point."""
    top, bottom, left, right = 12, HEIGHT - 44, 48, WIDTH - 24
    last = math.log2(max(points)) or 1.0

    def place(number: int, share: float) -> tuple[float, float]:
        return left + (right - left) * math.log2(number) / last, bottom - (bottom - top) * share

    parts = []
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        y = place(1, tick)[1]
        parts.append(f'<line class="grid" x1="{left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(_text(left - 8, y + 4, f"{100 * tick:g}%", "end", "quiet"))
    line = " ".join("{:.1f},{:.1f}".format(*place(number, point.value)) for number, point in points.items())
    parts.append(f'<polyline class="first" points="{line}"/>')
    for number, point in points.items():
        x, y = place(number, point.value)
        low, high = place(number, point.low)[1], place(number, point.high)[1]
        parts.append(f'<line class="first" x1="{x:.1f}" x2="{x:.1f}" y1="{low:.1f}" y2="{high:.1f}"/>')
        parts.append(_mark("first", x, y))
        parts.append(_text(x, bottom + 18, str(number), "middle", "quiet"))
    parts.append(_text((left + right) / 2, HEIGHT - 6, label, "middle", "quiet"))
    return _figure(caption, HEIGHT, parts)


def distribution(caption: str, amounts: Sequence[int], label: str, bins: int = 24) -> str:
    """How often which amounts are there."""
    top, bottom, left, right = 12, HEIGHT - 44, 48, WIDTH - 24
    width = next(w for w in _round_widths() if w * bins > max(amounts))
    counts = [0] * (max(amounts) // width + 1)
    for amount in amounts:
        counts[amount // width] += 1
    step = (right - left) / len(counts)
    parts = []
    for index, replies in enumerate(counts):
        tall = (bottom - top) * replies / max(counts)
        tip = f"<title>{index * width} to {(index + 1) * width - 1}: {replies}</title>"
        parts.append(
            f'<rect class="bar" x="{left + index * step + 0.5:.1f}" y="{bottom - tall:.1f}" '
            f'width="{max(step - 1, 0.5):.1f}" height="{tall:.1f}">{tip}</rect>'
        )
    parts.append(f'<line class="axis" x1="{left}" x2="{right}" y1="{bottom}" y2="{bottom}"/>')
    every = max(1, len(counts) // 6)
    for index in range(0, len(counts), every):
        parts.append(_text(left + index * step, bottom + 18, str(index * width), "middle", "quiet"))
    parts.append(_text(left - 8, top + 6, str(max(counts)), "end", "quiet"))
    parts.append(_text((left + right) / 2, HEIGHT - 6, label, "middle", "quiet"))
    return _figure(caption, HEIGHT, parts)


def _round_widths() -> Iterator[int]:
    """1, 2, 5, 10, 20, 50, ..."""
    return (digit * 10**zeros for zeros in count() for digit in (1, 2, 5))


def _figure(caption: str, height: float, parts: Sequence[str]) -> str:
    return (
        f'<figure><svg viewBox="0 0 {WIDTH} {height:g}" role="img" aria-label="{escape(caption)}">'
        + "".join(parts)
        + f"</svg><figcaption>{escape(caption)}</figcaption></figure>"
    )


def _text(x: float, y: float, text: str, anchor: str = "start", kind: str = "") -> str:
    mark = f' class="{kind}"' if kind else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{mark}>{escape(text)}</text>'


def _mark(kind: str, x: float, y: float) -> str:
    if kind == "first":
        return f'<circle class="first" cx="{x:.1f}" cy="{y:.1f}" r="4"/>'
    return f'<rect class="second" x="{x - 4:.1f}" y="{y - 4:.1f}" width="8" height="8" stroke-width="2"/>'


def _short(text: str) -> str:
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers from low to high, some four to nine of them."""
    step = next(step for step in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5) if (high - low) / step <= 9)
    return [round(i * step, 2) for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]
