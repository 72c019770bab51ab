"""Brings back the run that an adapter of the package was trained in, so that its recipe can be extended.

    python -m scripts.restore millet/models/adapters/NAME --to RUN
    millet train RECIPE --out RUN

The second command runs the stages that the recipe has after those that shipped, from the model that shipped. Data of
earlier stages are made again where a later stage reads them. Models of earlier stages are not in the package, so no
later stage can start from them.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path
from typing import Any

from millet.errors import BadRequest, MilletError
from millet.models.checkpoint import written_whole
from millet.train.lineage import RESTORED, read_lineage, write_lineage
from millet.train.stage import MODEL
from scripts.ship import CARD


def restore(adapter: Path, to: Path) -> str:
    """Writes the run's folder, all of it or nothing; what is to be said about it. Raises MilletError."""
    lineage = read_lineage(adapter)
    if lineage is None or "stages" not in lineage:
        raise BadRequest(f"{adapter} has no lineage of a whole recipe; name one that `python -m scripts.ship` has made")
    if to.exists():
        raise BadRequest(f"{to} is there already; choose another place for the run")
    stages: dict[str, Any] = lineage["stages"]
    trained = [name for name, stage in stages.items() if stage["artifact"] == MODEL]
    size = sum(path.stat().st_size for path in adapter.iterdir())
    with written_whole(to, size) as temporary:
        for number, (name, stage) in enumerate(stages.items(), 1):
            folder = temporary / f"{number}-{name}"
            folder.mkdir()
            write_lineage(folder, stage | {RESTORED: True})
            if name == trained[-1]:
                shutil.copytree(adapter, folder / MODEL, ignore=shutil.ignore_patterns(CARD))
                write_lineage(folder / MODEL, stage)
    return f"{to}: {', '.join(trained)}; `millet train` goes on from {trained[-1]}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("adapter", type=Path)
    parser.add_argument("--to", type=Path, required=True)
    given = parser.parse_args()
    try:
        print(restore(given.adapter, given.to))
    except MilletError as error:
        sys.exit(f"restore: {error}")


if __name__ == "__main__":
    main()
