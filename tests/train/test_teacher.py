"""A frozen model that scores: the same rows as the trainee's, in whatever form its weights are."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from millet.errors import BadRequest, PromptTooLong
from millet.train.ledger import Prices
from millet.train.progress import Silent
from millet.train.stage import Context
from millet.train.teacher import Teacher, load_teacher
from millet.train.trainee import Trainee
from tests.reasoning.toys import toy_model

SEQUENCES = [[5, 6, 7, 8, 9], [5, 6, 11, 12], [40, 41], [13]]
FIRST = [2, 2, 1, 1]


def context(folder: Path) -> Context:
    return Context(folder, "", 0, "cpu", Prices(), Silent(), folder, {})


@pytest.mark.usefixtures("way")
def test_rows_are_those_that_the_trainee_has_hidden_states_for() -> None:
    teacher, student = Teacher(toy_model(4), "toy"), Trainee(toy_model(4))
    rows = teacher.logits(SEQUENCES, FIRST)
    plain = toy_model(4)
    expected = torch.cat([plain.logits(ids)[start - 1 : -1] for ids, start in zip(SEQUENCES, FIRST, strict=True)])
    torch.testing.assert_close(rows(slice(0, 6)), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(rows(slice(2, 4)), expected[2:4], rtol=1e-4, atol=1e-4)
    hidden, targets = student.hidden(SEQUENCES, FIRST)
    torch.testing.assert_close(hidden @ student.head.t(), expected, rtol=1e-3, atol=1e-3)
    assert targets.tolist() == [7, 8, 9, 11, 12, 41]
    kept = torch.tensor([True, False, False, True, False, True])
    torch.testing.assert_close(
        teacher.logits(SEQUENCES, FIRST, kept)(slice(0, 3)), expected[kept], rtol=1e-4, atol=1e-4
    )


def test_what_it_cannot_read_is_refused() -> None:
    teacher = Teacher(toy_model(4, context=8), "toy")
    with pytest.raises(PromptTooLong):
        teacher.logits([list(range(9))], [1])


def test_another_vocabulary_is_refused_in_a_line(tmp_path: Path) -> None:
    toy_model(1, "r1_distill_qwen").save(tmp_path / "other")
    toy_model(2).save(tmp_path / "same")
    teacher = load_teacher(str(tmp_path / "same"), toy_model(3), context(tmp_path))
    assert "0.00 GB" in teacher.describe()
    assert not any(p.requires_grad for p in teacher.model.network.parameters())
    with pytest.raises(BadRequest, match=r"teacher .*other is not the student's \([\d,]+ entries"):
        load_teacher(str(tmp_path / "other"), toy_model(3), context(tmp_path))
