import json
import re
from collections.abc import Sequence

import pytest

from millet.cli.main import main
from millet.models.model import Model
from millet.tasks.band import Band, measure, with_signal
from millet.tasks.draw import split_of
from millet.tasks.grading import Graders
from millet.tasks.task import PlainReply
from tests.reasoning.toys import toy_model
from tests.tasks import toys


def knows_small_numbers(prompts: Sequence[str]) -> list[list[PlainReply]]:
    """Adds numbers of one digit; of two digits every other time; of three never."""
    replies = []
    for prompt in prompts:
        assert split_of(prompt) == "train"
        numbers = [int(number) for number in re.findall(r"\d+", prompt)]
        known = [max(numbers) < 100, max(numbers) < 10]
        replies.append([PlainReply("", str(sum(numbers)) if knows else "?") for knows in known])
    return replies


def test_pass_rates_by_level():
    told: list[Band] = []
    with Graders(workers=1) as graders:
        bands = measure([(toys.Sums(), [0, 2])], knows_small_numbers, graders, problems=20, tell=told.append)
    assert bands == told
    assert bands[0] == Band("sums", 0, problems=20, samples=2, rate=1.0, mixed=0.0)
    assert bands[1].level == 2
    assert bands[1].rate < 0.2
    assert not bands[0].has_signal


def test_mixed_counts_problems_with_right_and_wrong_replies():
    with Graders(workers=1) as graders:
        (band,) = measure([(toys.Sums(), [1])], knows_small_numbers, graders, problems=40)
    assert 0.9 < band.mixed <= 1
    assert band.rate == pytest.approx(1 - band.mixed / 2)
    assert band.has_signal


def band(task: str, level: int, rate: float) -> Band:
    return Band(task, level, 10, 4, rate, 0.5)


def test_levels_with_signal_are_chosen():
    bands = [band("a", 0, 0.95), band("a", 1, 0.6), band("a", 2, 0.1), band("a", 3, 0.0)]
    bands += [band("b", 0, 1.0), band("b", 1, 0.05), band("b", 2, 0.0), band("c", 0, 0.0)]
    assert with_signal(bands) == {"a": [1, 2], "b": [1]}


def test_the_command_measures_a_model(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    def load(name: str, **options: object) -> Model:
        return toy_model(0)

    monkeypatch.setattr("millet.models.load.load", load)
    monkeypatch.setattr("millet.cli.task.ensure", lambda name: None)
    words = ["task", "band", "toy", "--tasks", f"{toys.__file__}:Sums", "--levels", "0,1", "--problems", "2"]
    with pytest.raises(SystemExit) as ended:
        main([*words, "--samples", "3", "--max-tokens", "24", "--json"])
    printed = capsys.readouterr()
    assert ended.value.code == 0, printed.err
    found = json.loads(printed.out)
    assert [(each["task"], each["level"], each["samples"]) for each in found["bands"]] == [
        ("sums", 0, 3),
        ("sums", 1, 3),
    ]
    assert found["grader_faults"] == 0
    assert found["levels"] == {}
    assert "sums, level 1: 0% right" in printed.err
    with pytest.raises(SystemExit):
        main([*words, "--samples", "1", "--max-tokens", "24"])
    assert "no level has a right reply" in capsys.readouterr().out
