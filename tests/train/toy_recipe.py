"""A toy model on disk, conversations for it, and a recipe that trains it in seconds."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import torch

from millet.models.model import Model
from millet.models.tokenizer import Tokenizer
from tests.reasoning.toys import toy_model

STAGE = """
[[stage]]
kind = "sft"
data = ["sums.jsonl"]
epochs = {epochs}
batch_tokens = 512
micro_tokens = 256
checkpoint_every = 5

[stage.optimizer]
learning_rate = 3e-3
"""


def write_toy(folder: Path, epochs: int = 2, stages: str = STAGE) -> Path:
    """The recipe's path; the model and the data are beside it."""
    toy_model(7).save(folder / "toy")
    draw = random.Random("sums")
    rows = [conversation(draw.randrange(10), draw.randrange(10)) for _ in range(60)]
    (folder / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = folder / "recipe.toml"
    recipe.write_text(f'seed = 3\n[model]\nbase = "{folder / "toy"}"\ndevice = "cpu"\n{stages.format(epochs=epochs)}')
    return recipe


CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def unthinking_model(seed: int) -> Model:
    """A toy that was never made to think: neither its template nor its vocabulary knows of it."""
    model = toy_model(seed, template=CHATML)
    text = model.tokenizer.to_json().replace("<think>", "<spare1>").replace("</think>", "<spare2>")
    model.tokenizer = Tokenizer(tokenizers.Tokenizer.from_str(text), {})
    return model


def conversation(a: int, b: int) -> dict[str, Any]:
    thought = f"{a} and {b} make {a + b}."
    return {
        "messages": [
            {"role": "user", "content": f"What is {a} + {b}?"},
            {"role": "assistant", "reasoning": thought, "content": f"The answer is {a + b}."},
        ]
    }


class Heard:
    """A progress that remembers what it was told."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.begun: list[tuple[str, int, int]] = []
        self.steps: list[int] = []

    def say(self, line: str) -> None:
        self.lines.append(line)

    def begin(self, stage: str, done: int, steps: int) -> None:
        self.begun.append((stage, done, steps))

    def step(self, done: int, record: Mapping[str, Any]) -> None:
        self.steps.append(done)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Products this small take longer on several threads, and far longer where tests run side by side."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
