"""Draws curves of a stage's metrics as one SVG image, for a page of the documentation.

    python -m scripts.curves RUN/68-reward accuracy thought_tokens --to docs/images/reward.svg

The same curves as in the stage's report.html: each step faint, the moving mean of a fifth of the run over it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from html import escape
from pathlib import Path

from millet.errors import BadRequest, MilletError
from millet.train.checkpoint import write_atomically
from millet.train.metrics import read_log
from millet.train.report import HEIGHT, MEAN, WIDTH, drawn, points_of

TITLE = 20  # pixels above a curve
STYLE = (
    MEAN
    + """text { font: 11px system-ui, sans-serif; fill: #777 } text.title { font-weight: 600; font-size: 13px }
line { stroke: #777; opacity: .25 }
"""
)


def image(stage: Path, names: Sequence[str]) -> str:
    """The curves side by side. Raises BadRequest where the stage has none of that name."""
    records = read_log(stage / "metrics.jsonl")
    parts = []
    for i, name in enumerate(names):
        points = points_of(records, name)
        if not points:
            raise BadRequest(f"{stage} has no metric {name!r}; its metrics.jsonl has those that can be drawn")
        title = f'<text class="title" x="0" y="13">{escape(name.replace("_", " "))}</text>'
        parts.append(f'<g transform="translate({i * WIDTH} 0)">{title}</g>')
        parts.append(f'<g transform="translate({i * WIDTH} {TITLE})">{drawn(points)}</g>')
    wide, tall = WIDTH * len(names), HEIGHT + TITLE
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{wide}" height="{tall}" viewBox="0 0 {wide} {tall}">'
    return f"{head}<style>{STYLE}</style>{''.join(parts)}</svg>\n"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m scripts.curves", description="Curves of a stage as an image.")
    parser.add_argument("stage", type=Path, help="folder of a stage, in a run")
    parser.add_argument("names", nargs="+", help="metrics, as metrics.jsonl has them")
    parser.add_argument("--to", type=Path, required=True, help="the SVG file")
    options = parser.parse_args()
    try:
        write_atomically(options.to, image(options.stage, options.names))
    except (MilletError, OSError) as error:
        sys.exit(f"curves: {error}")


if __name__ == "__main__":
    main()
