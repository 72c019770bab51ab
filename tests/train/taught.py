"""A toy teacher that has learned to add badly but in good form, made once, and what is measured against it."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import torch

import millet
from millet.train.chain import train
from millet.train.data import Renderer, render_files
from millet.train.divergence import Divergence, distance
from millet.train.progress import Silent
from millet.train.recipe import read_recipe
from millet.train.teacher import Teacher
from millet.train.trainee import Trainee
from tests.reasoning.toys import toy_model
from tests.train.toy_recipe import STAGE, write_toy

HEAD = 'seed = 3\n[model]\nbase = "{base}"\ndevice = "cpu"\n'


def write_taught(folder: Path) -> None:
    """In the folder: `teacher`, `student` (another toy, that knows nothing), `beginner` (the same, after a little
    learning), `sums.jsonl`, `questions.jsonl`."""
    write_toy(folder)
    student = toy_model(9)
    with torch.no_grad():
        student.network.model.embed_tokens.weight *= 0.05  # else it repeats its last token for ever
    student.save(folder / "student")
    for name, base, epochs in (("teacher", "toy", 12), ("beginner", "student", 4)):
        path = folder / f"{name}.toml"
        stages = STAGE.replace("3e-3", "1e-2").format(epochs=epochs)
        path.write_text(f'seed = 3\n[model]\nbase = "{folder / base}"\ndevice = "cpu"\n{stages}')
        train(read_recipe(path), folder / "runs" / name, Silent())
        (folder / "runs" / name / "1-sft" / "model").rename(folder / name)
    rows = [{"question": f"What is {a} + {b}?"} for a in range(5) for b in range(8)]
    (folder / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def recipe(folder: Path, stages: str, base: str = "student") -> Path:
    """A recipe that starts from one of these models; {folder} in the stages is the folder."""
    path = folder / "recipe.toml"
    path.write_text((HEAD + stages).replace("{base}", str(folder / base)).replace("{folder}", str(folder)))
    return path


def gap(folder: Path, model: Path) -> float:
    """KL(teacher || model) in nats a token, over the replies of sums.jsonl."""
    student, teacher = Trainee(millet.load(model, dtype="float32", device="cpu")), _teacher(folder)
    examples = render_files([(folder / "sums.jsonl", Renderer(teacher.model))])
    sequences, first = [e.ids.tolist() for e in examples], [e.first for e in examples]
    with torch.no_grad():
        hidden, targets = student.hidden(sequences, first)
        found = distance(
            hidden, student.head, targets, teacher.logits(sequences, first), Divergence("forward"), 1 / len(targets)
        )
    return found.loss.item()


@cache
def _teacher(folder: Path) -> Teacher:
    return Teacher(millet.load(folder / "teacher", device="cpu"), "teacher")
