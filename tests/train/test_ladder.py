from __future__ import annotations

from millet.train.ladder import LEAST, Ladder


def groups(ladder: Ladder, passed: float, count: int) -> list[int]:
    """The levels that are asked while so many groups pass at this rate."""
    asked = []
    for _ in range(count):
        asked.append(ladder.level("sums"))
        ladder.take("sums", asked[-1], passed)
    return asked


def started_at(level: int) -> Ladder:
    ladder = Ladder({"sums": [0, 1, 2]})
    ladder.begin("sums", level)
    return ladder


def test_it_climbs_with_the_model_and_goes_down_without() -> None:
    ladder = Ladder({"sums": [0, 1, 2]})
    up = groups(ladder, 1.0, 60)
    assert up == sorted(up)
    assert set(up) == {0, 1, 2}  # and stays on the last
    down = groups(ladder, 0.0, 90)
    assert down == sorted(down, reverse=True)
    assert down[-1] == 0
    assert all(up.count(level) >= LEAST for level in (0, 1, 2))


def test_in_the_middle_it_stays() -> None:
    assert set(groups(started_at(1), 0.5, 100)) == {1}


def test_what_was_asked_before_a_change_counts_no_more() -> None:
    ladder = Ladder({"sums": [0, 1]})
    groups(ladder, 1.0, 40)
    assert ladder.level("sums") == 1
    for _ in range(100):
        ladder.take("sums", 0, 0.0)
    assert ladder.level("sums") == 1


def test_it_goes_on_where_it_was() -> None:
    ladder, other = Ladder({"sums": [0, 1, 2]}), Ladder({"sums": [0, 1, 2]})
    groups(ladder, 1.0, 7)
    other.restore(ladder.state())
    assert groups(ladder, 1.0, 30) == groups(other, 1.0, 30)


def test_it_climbs_the_levels_that_there_are_in_their_order() -> None:
    ladder = Ladder({"sums": [5, 2, 9]})
    up = groups(ladder, 1.0, 60)
    assert list(dict.fromkeys(up)) == [5, 2, 9]
    down = groups(ladder, 0.0, 90)
    assert list(dict.fromkeys(down)) == [9, 2, 5]
