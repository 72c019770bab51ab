"""The kernels of every instruction set that this processor has, each in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from millet.kernels.cpu import read_cpu
from millet.kernels.matrix import Matrix
from millet.kernels.native import library
from millet.kernels.native.abi import Format
from millet.kernels.native.build import VARIANTS

ROOT = Path(__file__).parents[2]
NEEDS = {"scalar": set(), "avx2": {"avx2", "fma", "f16c"}, "avxvnni": {"avx2", "avx_vnni"}, "neon": {"neon", "dotprod"}}
NEEDS["avx512"] = {"avx512f", "avx512_vnni"}

# What the kernels must hold to, whatever they are made of: products to the last bit, sums in float64, the rules of
# routing and of drawing.
TESTS = ["test_products.py", "test_ops.py", "test_experts.py", "test_draw.py"]
ATTENTION = ["test_scores_far_apart_do_not_overflow", "test_cached_halves_are_rounded_to_the_nearest"]
ATTENTION += [
    f"test_random_steps_over_scattered_blocks_are_the_plain_sums[{shape}]"
    for shape in ("grouped-dtype1", "odd widths-dtype0", "one value-dtype1", "latent-dtype0", "odd latent-dtype1")
]
TESTS += [f"test_native_attention.py::{name}" for name in ATTENTION]

pytestmark = pytest.mark.usefixtures("with_native")


def python(*arguments: str, kernels: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=os.environ | {"MILLET_KERNELS": kernels},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return done.returncode, done.stdout


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_does_what_the_one_in_use_does(name: str) -> None:
    if name == library.variant():
        pytest.skip("the one in use: the other tests here are about it")
    if not NEEDS[name] <= set(read_cpu().features):
        pytest.skip("this processor has no such instructions")
    status, said = python("-c", "from millet.kernels.native.library import variant; print(variant())", kernels=name)
    if "compiler did not know it" in said:
        pytest.skip("the compiler does not know these instructions")
    assert (status, said) == (0, f"{name}\n")
    options = ["-q", "-x", "-p", "no:cacheprovider", "-p", "no:randomly"]
    status, said = python("-m", "pytest", *options, *(f"tests/kernels/{test}" for test in TESTS), kernels=name)
    assert status == 0, said
    assert "skipped" not in said.splitlines()[-1], said


def test_an_unknown_variant_is_refused_in_one_line() -> None:
    status, said = python("-c", "from millet.kernels.native.library import library; library()", kernels="avx9")
    assert status == 1
    last = said.splitlines()[-1]
    assert last.startswith("millet.errors.KernelsUnavailable: MILLET_KERNELS=avx9 is unknown")
    assert all(name in last for name in VARIANTS)


def test_halves_are_made_as_pytorch_makes_them(seed: int) -> None:
    """Without special instructions (half.h): every half from itself, random bits, and every tie between two halves."""
    torch.manual_seed(seed)
    halves = torch.arange(2**16, dtype=torch.int32).to(torch.int16).view(torch.float16).float()
    anything = torch.randint(-(2**31), 2**31, (2**18,), dtype=torch.int64).to(torch.int32).view(torch.float32)
    below, above = halves[:0x7C00], halves[1:0x7C01].clamp(max=65536.0)
    ties = (below + above) / 2
    near = torch.cat((ties, ties.nextafter(below), ties.nextafter(above)))
    values = torch.cat((halves, anything, near, -near))
    found = Matrix.pack(values[:, None], Format.F16).unpack()[:, 0]
    expected = values.half().float()
    assert torch.equal(found.isnan(), expected.isnan())
    assert torch.equal(found.nan_to_num(0.0).view(torch.int32), expected.nan_to_num(0.0).view(torch.int32))
