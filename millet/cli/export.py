"""`millet export`: a model as a Hugging Face directory, which other programs read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from millet.cli.pull import ensure
from millet.cli.terminal import clean, console


def export(
    model: Annotated[
        str, typer.Argument(help="A name from `millet models`, a directory, a .gguf file, or hf:ORG/NAME.")
    ],
    to: Annotated[Path, typer.Option(help="The directory to write.", metavar="DIR")],
    dtype: Annotated[
        str, typer.Option(help="float32, bfloat16 or float16 weights; an adapter is added in fp32 first.")
    ] = "float32",
) -> None:
    """Write a model in the form that other programs read: an adapter added to its base, 4-bit weights as numbers."""
    from millet.errors import BadRequest
    from millet.models.load import load

    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise BadRequest(f"{to} is there already; name a directory that is not")
    ensure(model)
    with console(stderr=True).status(f"Writing {clean(str(to))}…"):
        load(model, dtype=dtype, device="cpu").save(to)
    print(to)
