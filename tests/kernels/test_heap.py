import os
import platform
import resource
import subprocess
import sys

import pytest

BLOCK = 8 << 20


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="not GNU's C library")
@pytest.mark.skipif("asan" in os.environ.get("LD_PRELOAD", ""), reason="a sanitizer has an allocator of its own")
def test_what_was_kept_is_there_again_without_the_system() -> None:
    """In a process of its own, whose settings stay. Untouched pages of fresh memory cost a fault each."""
    program = f"""
import resource, sys
import torch
from millet.kernels.heap import keep_freed
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        # They leave together, as a step's activations do: more than the C library would keep by itself.
        blocks = [torch.ones({BLOCK} // 4) for _ in range(6)]
        del blocks
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
keep_freed()
faults()
print(faults())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    pages = BLOCK // resource.getpagesize()
    assert int(done.stdout) < pages  # of twenty times six blocks
