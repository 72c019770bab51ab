import math

import pytest

from millet.errors import BadRequest
from millet.train.schedule import Schedule


def test_cosine_rises_and_falls() -> None:
    shares = [Schedule(warmup=0.2, floor=0.1).at(step, 10) for step in range(10)]
    assert shares[:2] == [0.5, 1.0]
    expected = [0.1 + 0.9 * (1 + math.cos(math.pi * k / 9)) / 2 for k in range(1, 9)]
    assert shares[2:] == pytest.approx(expected)


def test_wsd_is_flat_until_it_falls_in_a_line() -> None:
    shares = [Schedule(kind="wsd", warmup=0.1, decay=0.3).at(step, 10) for step in range(10)]
    assert shares == pytest.approx([1.0] * 7 + [0.75, 0.5, 0.25])


def test_constant_stays() -> None:
    assert [Schedule(kind="constant", warmup=0.5).at(step, 4) for step in range(4)] == [0.5, 1.0, 1.0, 1.0]


@pytest.mark.parametrize("kind", ["cosine", "wsd", "constant"])
@pytest.mark.parametrize("steps", [1, 2, 3, 1000])
def test_no_step_is_wasted(kind: str, steps: int) -> None:
    shares = [Schedule(kind=kind).at(step, steps) for step in range(steps)]  # type: ignore[arg-type]
    assert all(0 < share <= 1 for share in shares)


@pytest.mark.parametrize("wrong", [{"warmup": 1.5}, {"floor": -0.1}, {"kind": "wsd", "warmup": 0.6, "decay": 0.6}])
def test_impossible_shares_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(BadRequest, match="schedule"):
        Schedule(**wrong)  # type: ignore[arg-type]
