"""A catalog of two toys: a quantised base, pulled from a file, and an adapter for it that ships beside the catalog."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from millet.models import catalog as module
from millet.models.load import load
from millet.train.lora import LoraConfig
from millet.train.trainee import Trainee
from tests.models.files import CHAT

BASE, NAME = "toy", "toy-thinks"
LORA = LoraConfig(rank=4, alpha=8.0)
TEMPLATE = "{# as it was taught #}" + CHAT

ENTRIES = """
default = "{base}"
[models.{base}]
title = "A toy"
sources = ["file:{source}"]
licence = "MIT"
languages = ["en"]
parameters = 100
context = 128
sampling = {{ temperature = 0.2, top_p = 0.9 }}
"""
ADAPTED = f"""
[models.{NAME}]
title = "A toy that thinks"
base = "{BASE}"
adapter = "{NAME}"
licence = "Apache-2.0"
languages = ["en"]
parameters = 110
context = 128
sampling = {{ temperature = 0.6 }}
"""


@contextmanager
def catalog_of(folder: Path, source: Path, patch: pytest.MonkeyPatch) -> Iterator[None]:
    """Meanwhile the catalog is the one in `folder`, with a base that is pulled from `source`."""
    (folder / "models.toml").write_text(ENTRIES.format(base=BASE, source=source), "utf-8")
    patch.setenv("MILLET_HOME", str(folder / "home"))
    patch.setattr(module, "_CATALOG", folder / "models.toml")
    module.catalog.cache_clear()
    try:
        yield
    finally:
        patch.undo()
        module.catalog.cache_clear()


def add_adapter(folder: Path) -> None:
    """The catalog has the adapter too, which lies in its place."""
    with (folder / "models.toml").open("a", encoding="utf-8") as file:
        file.write(ADAPTED)
    module.catalog.cache_clear()


def trained(seed: int, name: str = BASE) -> Trainee:
    """An adapter over a model of the catalog, whose factors are far from zero, and such as fp16 can hold."""
    torch.manual_seed(seed)
    trainee = Trainee(load(name), LORA)
    with torch.no_grad():
        for parameter in trainee.parameters.values():
            parameter.copy_((0.1 * torch.randn(parameter.shape)).half())
    return trainee
