import threading

import psutil
import pytest
import torch

from millet.kernels.threads import _loaded, release_helpers


@pytest.mark.skipif(not _loaded("libgomp"), reason="PyTorch runs on another OpenMP here")
def test_helpers_of_this_thread_end_and_come_back() -> None:
    """In a thread of its own, so that pools of other tests do not matter."""
    process, counts, sums = psutil.Process(), [], []

    def work() -> None:
        torch.set_num_threads(3)
        x = torch.ones(2**22)
        counts.append(process.num_threads())
        sums.append(x.sum().item())
        counts.append(process.num_threads())
        release_helpers()
        counts.append(process.num_threads())
        sums.append(x.sum().item())
        counts.append(process.num_threads())

    before = torch.get_num_threads()
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    torch.set_num_threads(before)
    bare, working, released, again = counts
    assert released < working
    assert again == working
    assert released <= bare + 1  # one for the time that a thread takes to end
    assert sums == [2**22, 2**22]


def test_without_gnu_openmp_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("millet.kernels.threads._loaded", lambda name: set())
    release_helpers()
