import pytest
import torch

from millet.kernels import roof as module
from millet.kernels.cpu import CPU
from millet.kernels.roof import measure_roof


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "READ_BYTES", 2**20)
    monkeypatch.setattr(module, "MATMUL", (16, 64, 128))
    monkeypatch.setattr(module, "SECONDS", 0.001)


def processor(*features: str) -> CPU:
    return CPU("a processor", "x86_64", features, 2, 2)


def test_figures_are_work_over_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_fastest", lambda run, device: run() is None or 0.5)
    roof = measure_roof(cpu=processor("avx2"))
    assert roof.read == 2**20 / 0.5 / 1e9
    assert roof.fp32 == pytest.approx(2 * 16 * 64 * 128 / 0.5 / 1e9)


def test_measured_figures_are_positive_and_finite() -> None:
    roof = measure_roof(cpu=processor("avx512_bf16"))
    assert roof.bf16 is not None
    assert all(0 < figure < 1e9 for figure in (roof.read, roof.fp32, roof.bf16, roof.dispatch))
    assert roof.threads == torch.get_num_threads()


def test_integers_are_measured_where_the_native_kernels_are(way: str) -> None:
    roof = measure_roof(cpu=processor("avx2"))
    assert (roof.int8 is not None) == (way == "native")
    assert roof.int8 is None or 0 < roof.int8 < 1e9


def test_bf16_is_not_tried_where_it_is_emulated() -> None:
    assert measure_roof(cpu=processor("avx2", "avx512f")).bf16 is None


def test_the_best_run_counts_and_the_first_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    durations = [0.001, 5.0, 3.0, 4.0]  # the first run would be the best
    clock = iter([t for i, d in enumerate(durations) for t in (100.0 * i, 100.0 * i + d)])
    monkeypatch.setattr(module.time, "perf_counter", lambda: next(clock))
    assert module._fastest(lambda: None, "cpu") == pytest.approx(3.0)
