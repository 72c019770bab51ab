import subprocess
import sys

import pytest

from millet.errors import BadRequest
from millet.kernels.cpu import read_cpu
from millet.train.ledger import Arithmetic, Ledger, Prices, Stopwatch


def test_money_is_time_by_price() -> None:
    prices = Prices(currency="EUR", cpu_core_hour=0.5, gpu_hour=2.0)
    entries = Ledger(wall_seconds=7200).entries(prices)
    assert (entries["money"], entries["currency"]) == (2 * 0.5 * read_cpu().cores, "EUR")
    assert Ledger(wall_seconds=7200, gpu_seconds=7200).entries(prices)["money"] == 4.0


def test_ledgers_add_up_and_come_back() -> None:
    one = Ledger(wall_seconds=1, cpu_seconds=2, gpu_seconds=3, tokens=4, sampled_tokens=5, flops=6)
    total = Ledger.of(one.__dict__)
    total.add(one)
    assert total.__dict__ == {name: 2 * value for name, value in one.__dict__.items()}
    assert one.tokens == 4


def test_flops_count_each_weight_once_a_direction() -> None:
    assert Arithmetic(weights=100, trained=100).flops(tokens=10, sampled=0) == 6 * 100 * 10
    assert Arithmetic(weights=100, trained=5).flops(tokens=1, sampled=0) == 2 * 100 + 2 * 100 + 2 * 5
    assert Arithmetic(weights=100, trained=5).flops(tokens=0, sampled=3) == 2 * 100 * 3


def test_a_lap_counts_the_work_of_children_too() -> None:
    watch = Stopwatch(gpu=False)
    subprocess.run([sys.executable, "-c", "sum(range(3_000_000))"], check=True)
    lap = watch.lap()
    assert lap.cpu_seconds > 0
    assert lap.wall_seconds > 0
    assert lap.gpu_seconds == 0
    assert watch.lap().cpu_seconds < lap.cpu_seconds
    assert Stopwatch(gpu=True).lap().gpu_seconds > 0


def test_prices_below_nothing_are_refused() -> None:
    with pytest.raises(BadRequest, match=r"prices\.gpu_hour is -1"):
        Prices(gpu_hour=-1)
