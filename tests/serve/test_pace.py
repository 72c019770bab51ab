"""Tokens per second, on a clock of the test's own."""

from millet.serve.pace import WINDOW, Pace


def test_the_last_whole_seconds_count() -> None:
    now = 100.0
    pace = Pace(lambda: now)
    assert pace.per_second == 0
    for tenth in range(1000, 1000 + 10 * WINDOW):  # 3 tokens every tenth of a second
        now = tenth / 10
        pace.add(3)
    assert pace.per_second == 30 * (WINDOW - 1) / WINDOW  # the last second goes on
    now = 100.0 + WINDOW
    assert pace.per_second == 30
    now += 2
    assert pace.per_second == 30 * (WINDOW - 2) / WINDOW
    now += WINDOW
    assert pace.per_second == 0


def test_it_stays_small() -> None:
    now = 0.0
    pace = Pace(lambda: now)
    for thousandth in range(60_000):
        now = thousandth / 1000
        pace.add(1)
    assert len(pace._seconds) <= WINDOW + 1
    assert pace.per_second == 1000
