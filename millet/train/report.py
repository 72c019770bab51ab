"""A stage as one HTML page that needs nothing else: its curves, its cost, things to read, and how to make it again."""

from __future__ import annotations

import html
import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from millet.train.checkpoint import write_atomically
from millet.train.ledger import Ledger
from millet.train.lineage import read_lineage
from millet.train.metrics import read_log
from millet.train.recipe import Recipe
from millet.train.stage import TrainingStage

WIDTH, HEIGHT = 460, 190  # of a curve, in pixels
LEFT, RIGHT, TOP, BOTTOM = 58, 10, 10, 24  # around it
POINTS = 400  # of a curve at most; each is the mean of its steps
WINDOW = 5  # a curve's moving mean looks at one in so many of them
SAMPLES = 3  # from the beginning, and from the end

MEAN = """
polyline { fill: none; stroke: #2f6fde; stroke-width: 1.5; opacity: .3 } polyline.mean { stroke-width: 2; opacity: 1 }
"""
STYLE = (
    MEAN
    + """:root { color-scheme: light dark; font: 15px/1.5 system-ui, sans-serif }
body { max-width: 1000px; margin: 2rem auto; padding: 0 1rem }
figure { display: inline-block; margin: 0 1rem 1rem 0 }
figcaption { font-weight: 600 }
svg { max-width: 100% } svg text { font-size: 11px; fill: currentColor; opacity: .7 }
line { stroke: currentColor; opacity: .15 }
table { border-collapse: collapse } td, th { text-align: left; padding: .15rem 1rem .15rem 0; vertical-align: top }
pre { white-space: pre-wrap; overflow-wrap: anywhere; background: #8881; padding: .6rem; border-radius: .3rem }
"""
)


def write_report(folder: Path, origin: Mapping[str, Any], recipe: Recipe) -> None:
    """report.html of a stage's folder, from what is in it: finished, or as far as it has come."""
    records, samples = read_log(folder / "metrics.jsonl"), read_log(folder / "samples.jsonl")
    lineage = read_lineage(folder)
    again = command(recipe.path, folder.parent, origin["environment"].get("processes", 1))
    title = f"{origin['stage']} ({origin['configuration']['kind']})"
    trains = any(isinstance(stage, TrainingStage) for stage in recipe.stages if stage.name == origin["stage"])
    unit = "step" if trains else "batch"
    count = f"{len(records):,} {unit if len(records) == 1 else 'steps' if trains else 'batches'}"
    state = (count if records else "done at once") if lineage else f"stopped after {count}"
    parents = f", from {', '.join(origin['parents'])}" if origin["parents"] else ""
    ledger = lineage["ledger"] if lineage else _so_far(records, recipe)
    parts = [
        f"<h1>{html.escape(title)}</h1><p>{state}{html.escape(parents)}.</p>",
        f"<h2>Curves</h2>{''.join(_curves(records))}" if records else "",
        f"<h2>Cost</h2>{_table(ledger)}",
        f"<h2>Samples</h2>{_samples(samples, unit)}" if samples else "",
        f"<h2>Make it again</h2><pre>{html.escape(again)}</pre>",
        f"<p>recipe.toml:</p><pre>{html.escape(recipe.path.read_text(encoding='utf-8'))}</pre>",
        f"<h2>Lineage</h2><pre>{html.escape(json.dumps(lineage or origin, indent=2, ensure_ascii=False))}</pre>",
    ]
    head = (
        f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{html.escape(title)}</title>'
    )
    page = (
        f"<!doctype html><html lang=en><head>{head}<style>{STYLE}</style></head><body>{''.join(parts)}</body></html>\n"
    )
    write_atomically(folder / "report.html", page)


def command(recipe: Path, out: Path, processes: int) -> str:
    """What a person types to get the same."""
    launcher = ["torchrun", "--standalone", "--nproc-per-node", str(processes), "-m"] if processes > 1 else []
    return shlex.join([*launcher, "millet", "train", str(recipe), "--out", str(out)])


def _curves(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """One for each number that the steps, or batches, have."""
    names = dict.fromkeys(name for record in records for name in record if name not in ("step", "cost"))
    curves = {name: points_of(records, name) for name in names}
    return [_curve(name, points) for name, points in curves.items() if points]


def points_of(records: Sequence[Mapping[str, Any]], name: str) -> list[tuple[float, float]]:
    """(step, number) of those steps that have it; POINTS at most."""
    return _thinned([(r["step"], r[name]) for r in records if isinstance(r.get(name), (int, float))])


def _thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    size = -(-len(points) // POINTS) or 1
    groups = [points[i : i + size] for i in range(0, len(points), size)]
    return [(sum(x for x, _ in group) / len(group), sum(y for _, y in group) / len(group)) for group in groups]


def _curve(name: str, points: Sequence[tuple[float, float]]) -> str:
    caption = html.escape(name.replace("_", " "))
    svg = f'<svg role="img" aria-label="{caption}" width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}">'
    return f"<figure><figcaption>{caption}</figcaption>{svg}{drawn(points)}</svg></figure>"


def drawn(points: Sequence[tuple[float, float]]) -> str:
    """A curve and its moving mean as elements of an SVG image of WIDTH by HEIGHT; (step, value) each."""
    xs, ys = [x for x, _ in points], [y for _, y in points]
    low, high = min(ys), max(ys)
    wide, tall = (max(xs) - min(xs)) or 1, (high - low) or 1
    across, down = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def line(ys: Sequence[float]) -> str:
        return " ".join(
            f"{LEFT + (x - min(xs)) / wide * across:.1f},{TOP + (high - y) / tall * down:.1f}"
            for x, y in zip(xs, ys, strict=True)
        )

    lines, labels = "", ""
    for share in (0.0, 0.5, 1.0):
        y = TOP + share * down
        lines += f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}"/>'
        labels += f'<text x="{LEFT - 6}" y="{y + 4}" text-anchor="end">{high - share * tall:.4g}</text>'
    labels += f'<text x="{LEFT}" y="{HEIGHT - 6}">{min(xs):.0f}</text>'
    labels += f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 6}" text-anchor="end">{max(xs):.0f}</text>'
    return f'{lines}<polyline points="{line(ys)}"/><polyline class="mean" points="{line(moving_mean(ys))}"/>{labels}'


def moving_mean(values: Sequence[float]) -> list[float]:
    """Of each value and those around it, as many before as behind; fewer at both ends."""
    most = len(values) // WINDOW // 2
    reach = [min(most, i, len(values) - 1 - i) for i in range(len(values))]
    return [sum(values[i - n : i + n + 1]) / (2 * n + 1) for i, n in enumerate(reach)]


def _samples(samples: Sequence[Mapping[str, Any]], unit: str) -> str:
    shown = samples if len(samples) <= 2 * SAMPLES else [*samples[:SAMPLES], *samples[-SAMPLES:]]
    return "".join(f"<h3>{unit.capitalize()} {sample['step']}</h3>{_table(sample, skip='step')}" for sample in shown)


def _table(entries: Mapping[str, Any], skip: str = "") -> str:
    rows = (
        f"<tr><th>{html.escape(name.replace('_', ' '))}</th><td>{_cell(value)}</td></tr>"
        for name, value in entries.items()
        if name != skip
    )
    return f"<table>{''.join(rows)}</table>"


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1e5 else f"{value:.3e}"
    if isinstance(value, int):
        return f"{value:,}"
    text = html.escape(str(value))
    return f"<pre>{text}</pre>" if len(text) > 80 or "\n" in text else text


def _so_far(records: Sequence[Mapping[str, Any]], recipe: Recipe) -> dict[str, Any]:
    total = Ledger()
    for record in records:
        total.add(Ledger.of(record["cost"]))
    return total.entries(recipe.prices)
