"""The measured roof: how fast this machine can read memory and multiply, so that speeds can be given as a share of it.

A roof is the best of several tries, not their mean: whatever disturbs a try can only make it slower.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from millet.kernels.cpu import CPU, read_cpu, read_memory
from millet.kernels.linear import LinearGroup, native, onednn
from millet.kernels.matrix import Matrix, NativeProduct
from millet.kernels.native.abi import Format

READ_BYTES = 256 * 2**20  # well beyond the last-level cache of all but the largest servers
MATMUL = (512, 1024, 2048)  # rows, inputs, outputs: a prefill chunk through a feed-forward layer of a small model
MATMUL_CUDA = (4096, 4096, 4096)
SECONDS = 0.2  # for each way to do each thing at least, so that clocks settle and a short disturbance passes


@dataclass(frozen=True, slots=True)
class Roof:
    """read: streaming read bandwidth in GB/s (1e9 bytes). fp32, bf16: matrix products in GFLOP/s, a multiply-add being
    two; bf16 is None where the chip has no such instructions. int8: products of the native kernels with 4-bit weights,
    in GOP/s; None without them. dispatch: seconds that starting one operation of PyTorch takes.
    """

    read: float
    fp32: float
    bf16: float | None
    int8: float | None
    dispatch: float
    device: str
    threads: int


def measure_roof(device: str = "cpu", cpu: CPU | None = None, read_bytes: int | None = None) -> Roof:
    """Measure for about two seconds, with PyTorch's current number of threads.

    read_bytes: how much is read over and over, where that is known: what fits into a large processor's last cache is
    read faster than memory.
    """
    on_cpu = device == "cpu"
    native_bf16 = (cpu or read_cpu()).native_bf16 if on_cpu else True
    with torch.inference_mode():
        return Roof(
            read=_read_bandwidth(device, read_bytes or READ_BYTES),
            fp32=_gflops(torch.float32, device),
            bf16=_gflops(torch.bfloat16, device) if native_bf16 else None,
            int8=_native_gops(Format.Q4_0) if on_cpu and native() else None,
            dispatch=_dispatch(device),
            device=device,
            threads=torch.get_num_threads(),
        )


def _read_bandwidth(device: str, size: int) -> float:
    """GB/s. A sum of squares, a vector-matrix product, a native product of one row: which of them keeps up with memory
    depends on the chip."""
    size = size if device != "cpu" else min(size, read_memory().available // 4)
    rows = max(1, size // 4 // 4096)
    x_RC = torch.ones(rows, 4096, device=device)
    ones_R = torch.ones(rows, device=device)
    seconds = min(_fastest(lambda: x_RC.norm(), device), _fastest(lambda: torch.mv(x_RC.t(), ones_R), device))
    speed = x_RC.nbytes / seconds / 1e9
    if device == "cpu" and native():
        matrix = Matrix(Format.F32, rows, 4096)
        matrix.memory.zero_()  # or all of it would be one page that nobody has written
        product = NativeProduct(matrix, torch.ones(1, 4096))
        speed = max(speed, matrix.nbytes / _fastest(product.run, device) / 1e9)
    return speed


def _gflops(dtype: torch.dtype, device: str) -> float:
    """The better of PyTorch's own product and the ones that the engine uses where it can."""
    rows, inputs, outputs = MATMUL if device == "cpu" else MATMUL_CUDA
    owner = nn.Module()
    owner.product = nn.Linear(inputs, outputs, bias=False, device=device, dtype=dtype)
    product = LinearGroup(owner, "product")
    x_TD = torch.randn(rows, inputs, device=device).to(dtype)
    seconds = _fastest(lambda: product(x_TD), device)
    if dtype == torch.float32 and device == "cpu":
        if onednn():
            product._pack_onednn(product.modules)
            seconds = min(seconds, _fastest(lambda: product(x_TD), device))
        if native():
            return max(2 * rows * inputs * outputs / seconds / 1e9, _native_gops(Format.F32))
    return 2 * rows * inputs * outputs / seconds / 1e9


def _native_gops(format: Format) -> float:
    """GOP/s of the native products at the same size."""
    rows, inputs, outputs = MATMUL
    product = NativeProduct(Matrix.pack(torch.randn(outputs, inputs), format), torch.randn(rows, inputs))
    return 2 * rows * inputs * outputs / _fastest(product.run, "cpu") / 1e9


def _dispatch(device: str) -> float:
    """Seconds for one operation whose arithmetic takes no time."""
    x = torch.ones(8, device=device)

    def thousand() -> None:
        for _ in range(1000):
            torch.add(x, x)

    return _fastest(thousand, device) / 1000


def _fastest(run: Callable[[], object], device: str) -> float:
    """Seconds of the fastest run, the first not counted: it pays for page faults and cold caches."""
    best, spent, runs = math.inf, 0.0, 0
    while runs < 4 or spent < SECONDS:
        started = time.perf_counter()
        run()
        if device != "cpu":
            torch.cuda.synchronize()
        elapsed = time.perf_counter() - started
        spent += elapsed
        runs += 1
        if runs > 1:
            best = min(best, elapsed)
    return best
