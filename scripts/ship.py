"""Makes the adapter that a run has trained a part of the package, with its lineage and its model card.

    python -m scripts.ship RUN --to millet/models/adapters/NAME --card recipes/NAME/card.toml --evals FILE.json ...

RUN is what `millet train --out` names, and the files are what `millet eval --json` prints. What is written are the
numbers that the kernels compute with beside a quantised base, A and scale B in fp16 (kernels/low_rank.py), so there the
shipped adapter says what the trained one says, bit for bit. All else in its directory is taken as it is. Paths of this
machine are told by their last names alone. The entry in models.toml is written by hand.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from millet.errors import BadRequest, MilletError
from millet.models.adapter import CONFIG, FACTORS, PREFIX, SUFFIX_A, SUFFIX_B, Adapter
from millet.models.catalog import catalog
from millet.models.checkpoint import write_json, write_safetensors, written_whole
from millet.train.card import model_card, read_card
from millet.train.checkpoint import weights_hash
from millet.train.lineage import LINEAGE, RESTORED, read_lineage, write_lineage
from millet.train.metrics import read_log
from millet.train.stage import DATA, MODEL

CARD = "README.md"
LARGEST = 24_000_000  # bytes of the whole directory: everybody who installs Millet gets it


def ship(run: Path, to: Path, card: Path, evaluations: Sequence[Path]) -> str:
    """Writes the directory, all of it or nothing; what is to be said about it. Raises MilletError."""
    lineage = _lineage(run)
    name, folder = _last(lineage, run)
    adapter = Adapter.read(folder)
    if adapter.base not in catalog():
        raise BadRequest(
            f"{folder} is for {adapter.base}, which is no model of the catalog; train one for such a model"
        )
    if weights_hash(load_file(folder / FACTORS)) != lineage["stages"][name]["sha256"]:
        raise BadRequest(f"{folder / FACTORS} is not what stage {name} has made; run the recipe again")
    halves = in_fp16(adapter)
    found = [_evaluation(path, lineage["stages"][name]["sha256"]) for path in evaluations]
    public = without_places(lineage)
    text = model_card(to.name, adapter.base, read_card(card), public, found)
    size = sum(tensor.nbytes for tensor in halves.values())
    with written_whole(to, size) as temporary:
        for path in sorted(folder.iterdir()):
            if path.name not in (CONFIG, FACTORS, LINEAGE, CARD):
                shutil.copyfile(path, temporary / path.name)
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        write_json(temporary / CONFIG, config | {"lora_alpha": float(config["r"])})  # B has the scale in it
        write_safetensors(temporary / FACTORS, halves)
        write_lineage(temporary, public)
        (temporary / CARD).write_text(text, encoding="utf-8")
        size = sum(path.stat().st_size for path in temporary.iterdir())
        if size > LARGEST:
            raise BadRequest(
                f"{to.name} would have {size / 1e6:.1f} MB, and {LARGEST / 1e6:.0f} are allowed; lower rank"
            )
    return f"{to}: {size / 1e6:.1f} MB"


def in_fp16(adapter: Adapter) -> dict[str, Tensor]:
    """A and scale B of each module by PEFT's names. Raises BadRequest where a number is too large."""
    halves = {}
    for module, factors in adapter.modules.items():
        halves[f"{PREFIX}{module}{SUFFIX_A}"] = factors.a_RD.half()
        halves[f"{PREFIX}{module}{SUFFIX_B}"] = (factors.b_FR * factors.scale).half()
    if broken := [name for name, half in halves.items() if not half.isfinite().all()]:
        raise BadRequest(f"{broken[0]} has numbers that fp16 cannot hold; train with a lower learning rate")
    return halves


def without_places(lineage: Any) -> Any:
    """The same without what only this machine knows: of absolute paths their last names, of addresses nothing."""
    if isinstance(lineage, Mapping):
        return {_placeless(key): without_places(value) for key, value in lineage.items()}
    if isinstance(lineage, list):
        return [without_places(value) for value in lineage]
    return _placeless(lineage) if isinstance(lineage, str) else lineage


def _placeless(text: str) -> str:
    """Also of `svamp:/PATH` and `/PATH.py:NAME`."""
    if "://" in text:
        return "a server"
    return ":".join(PurePath(part).name if part.startswith(("/", "~")) else part for part in text.split(":"))


def _lineage(run: Path) -> dict[str, Any]:
    """Of the whole chain, with what each stage has counted."""
    lineage = read_lineage(run)
    if lineage is None or "stages" not in lineage:
        raise BadRequest(f"{run} has no {LINEAGE} of a whole recipe; run `millet train` to its end")
    for number, (name, stage) in enumerate(lineage["stages"].items(), 1):
        folder = run / f"{number}-{name}"
        if stage.pop(RESTORED, False):
            continue  # it has its counts
        if stage["artifact"] == DATA:
            lines = (folder / DATA).read_text(encoding="utf-8").split("\n")  # a text may have U+2028
            stage["conversations"] = dict(Counter(json.loads(line)["source"]["task"] for line in lines if line))
        else:
            stage["steps"] = len(read_log(folder / "metrics.jsonl"))
    return lineage


def _last(lineage: Mapping[str, Any], run: Path) -> tuple[str, Path]:
    """The last stage that has made a model, and that model's directory."""
    made = [
        (name, run / f"{number}-{name}" / MODEL)
        for number, (name, stage) in enumerate(lineage["stages"].items(), 1)
        if stage["artifact"] == MODEL
    ]
    if not made or not (made[-1][1] / CONFIG).exists():
        raise BadRequest(f"{run} has not ended with an adapter; give its last stage [stage.lora]")
    return made[-1]


def _evaluation(path: Path, sha256: str) -> dict[str, Any]:
    """What `millet eval --json` printed. Raises BadRequest where its lineage is not that of these weights."""
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        lineage = (found["models"][-1] if "models" in found else found)["lineage"]
    except OSError as error:
        raise BadRequest(f"{path} cannot be read ({error.strerror}); check the path") from error
    except (ValueError, LookupError, TypeError) as error:
        raise BadRequest(f"{path} is not what `millet eval --json` prints; make it anew") from error
    if _made(lineage) != sha256:
        raise BadRequest(f"{path} is of another model than the run has ended with; evaluate that one")
    return found


def _made(lineage: Any) -> str | None:
    """The hash of the weights that a stage's lineage tells, or a chain's in the end; None for what is neither."""
    try:
        stages = lineage.get("stages", {"": lineage})
        sha256: str = [stage["sha256"] for stage in stages.values() if stage["artifact"] == MODEL][-1]
    except (LookupError, TypeError, AttributeError):
        return None
    return sha256


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--to", type=Path, required=True)
    parser.add_argument("--card", type=Path, required=True)
    parser.add_argument("--evals", type=Path, nargs="+", required=True)
    given = parser.parse_args()
    try:
        print(ship(given.run, given.to, given.card, given.evals))
    except MilletError as error:
        sys.exit(f"ship: {error}")


if __name__ == "__main__":
    main()
