"""Conversations as student and teacher read them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from millet.errors import BadRequest
from millet.train.data import Renderer, thinking_template
from millet.train.taught import PairRenderer, Taught
from tests.train.toy_recipe import unthinking_model

ASK = {"role": "user", "content": "2+3?"}
PLAIN = {"role": "assistant", "content": "5"}
THOUGHT = {"role": "assistant", "reasoning": "2 and 3", "content": "5"}


def pair(*, student_thinks: bool, teacher_thinks: bool) -> tuple[PairRenderer, Any]:
    models = [unthinking_model(0), unthinking_model(1)]
    for model, thinks in zip(models, (student_thinks, teacher_thinks), strict=True):
        if thinks:
            assert model.template is not None
            model.template = thinking_template(model.template)
    student, teacher = map(Renderer, models)
    return PairRenderer(student, teacher), models[0].tokenizer


def compared(example: Taught) -> tuple[list[int], list[int]]:
    """Of the student's and of the teacher's tokens those that are compared."""
    return example.ids[example.shared].tolist(), example.teacher.ids[example.teacher.learned].tolist()


@pytest.mark.parametrize("both_think", [True, False])
def test_who_reads_alike_is_compared_everywhere(both_think: bool) -> None:
    renderer, _ = pair(student_thinks=both_think, teacher_thinks=both_think)
    reply = THOUGHT if both_think else PLAIN
    for example in renderer.examples([ASK, reply, ASK, reply]):
        assert np.array_equal(example.teacher.ids, example.ids)
        assert np.array_equal(example.shared, example.learned)
        assert np.array_equal(example.teacher.learned, example.learned)


@pytest.mark.parametrize("reply", [PLAIN, THOUGHT])
def test_a_teacher_without_thoughts_is_asked_about_the_answer(reply: dict[str, str]) -> None:
    """It reads neither the thought nor that there is none. Each reply by itself, also behind others."""
    renderer, tokenizer = pair(student_thinks=True, teacher_thinks=False)
    alone = renderer.examples([ASK, reply])
    several = renderer.examples([ASK, reply, ASK, reply], [ASK, THOUGHT])
    assert [len(alone), len(several)] == [1, 2]
    for example in (*alone, *several):
        own, theirs = compared(example)
        assert own == theirs
        assert tokenizer.decode(own).startswith("5")
        assert example.learned[example.shared].all()
        assert example.learned.sum() > len(own) or reply is PLAIN
        assert "think" in tokenizer.decode(example.ids.tolist())
        assert "think" not in tokenizer.decode(example.teacher.ids.tolist())
        assert "2 and 3" not in tokenizer.decode(example.teacher.ids.tolist())
    assert len(several[1].teacher) > len(several[0].teacher) > len(alone[0].teacher)


def test_a_student_that_begins_to_think_learns_from_a_teacher_that_does() -> None:
    renderer, _ = pair(student_thinks=False, teacher_thinks=True)
    renderer.look([THOUGHT])
    (example,) = renderer.examples([ASK, THOUGHT])
    assert np.array_equal(example.shared, example.learned)


def test_what_cannot_be_read_is_told_as_ever() -> None:
    renderer, _ = pair(student_thinks=True, teacher_thinks=False)
    with pytest.raises(BadRequest, match="no reply in it"):
        renderer.examples([ASK])
