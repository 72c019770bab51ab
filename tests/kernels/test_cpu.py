import os
import sys
from pathlib import Path

import psutil
import pytest

from millet.kernels import cpu as module
from millet.kernels.cpu import CPU, Memory, choose_dtype, read_cpu, read_memory

GB = 10**9
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads a tree laid out as on Linux")

ZEN4 = """processor\t: 0
model name\t: AMD Ryzen 7 7840U
flags\t\t: fpu sse2 avx2 fma f16c avx512f avx512_vnni avx512_bf16
processor\t: 1
model name\t: another
flags\t\t: fpu
"""
GRAVITON = "processor\t: 0\nFeatures\t: fp asimd asimdhp asimddp i8mm bf16\nCPU part\t: 0xd40\n"


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with 16 GB, 12 of them available, and four hardware threads on two cores."""
    monkeypatch.setattr(module.psutil, "virtual_memory", lambda: Memory(16 * GB, 12 * GB))
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 3}, raising=False)
    for n, siblings in enumerate(["0,2", "1,3", "0,2", "1,3"]):
        write(tmp_path / f"sys/devices/system/cpu/cpu{n}/topology/thread_siblings_list", siblings)
    write(tmp_path / "proc/cpuinfo", ZEN4)
    return tmp_path


def write(path: Path, text: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{text}\n")


@linux
def test_processor_is_read_from_cpuinfo_and_topology(root: Path) -> None:
    cpu = read_cpu(root)
    assert cpu.name == "AMD Ryzen 7 7840U"
    assert cpu.features == ("avx2", "fma", "f16c", "avx512f", "avx512_vnni", "avx512_bf16")
    assert (cpu.cores, cpu.threads) == (2, 4)
    assert cpu.native_bf16


@linux
def test_arm_features_get_their_common_names(root: Path) -> None:
    write(root / "proc/cpuinfo", GRAVITON)
    assert read_cpu(root).features == ("neon", "fp16", "dotprod", "i8mm", "bf16")


@linux
@pytest.mark.parametrize(
    ("quota", "threads"), [("150000 100000", 1), ("300000 100000", 3), ("max 100000", 4), ("1 100000", 1)]
)
def test_quota_of_a_version_2_cgroup_limits_the_threads(root: Path, quota: str, threads: int) -> None:
    write(root / "proc/self/cgroup", "0::/user/app")
    write(root / "sys/fs/cgroup/user/cpu.max", quota)  # of the group around ours
    assert read_cpu(root).threads == threads


@linux
@pytest.mark.parametrize(("quota", "threads"), [("100000", 2), ("-1", 4)])
def test_quota_of_a_version_1_cgroup_limits_the_threads(root: Path, quota: str, threads: int) -> None:
    write(root / "proc/self/cgroup", "4:memory:/m\n3:cpu,cpuacct:/c")
    write(root / "sys/fs/cgroup/cpu/c/cpu.cfs_quota_us", quota)
    write(root / "sys/fs/cgroup/cpu/c/cpu.cfs_period_us", "50000")
    assert read_cpu(root).threads == threads


@linux
def test_without_a_cgroup_the_machine_is_the_limit(root: Path) -> None:
    assert read_memory(root) == Memory(16 * GB, 12 * GB)


@linux
def test_the_tightest_version_2_cgroup_counts_and_its_file_cache_can_be_had_back(root: Path) -> None:
    write(root / "proc/self/cgroup", "0::/pod/container")
    write(root / "sys/fs/cgroup/pod/container/memory.max", "max")
    write(root / "sys/fs/cgroup/pod/container/memory.current", 1 * GB)
    write(root / "sys/fs/cgroup/pod/memory.max", 4 * GB)
    write(root / "sys/fs/cgroup/pod/memory.current", 3 * GB)
    write(root / "sys/fs/cgroup/pod/memory.stat", f"anon 5\ninactive_file {GB // 2}")
    assert read_memory(root) == Memory(4 * GB, GB + GB // 2)


@linux
def test_a_version_1_cgroup_is_found_at_the_mount_when_its_own_path_is_not_there(root: Path) -> None:
    write(root / "proc/self/cgroup", "8:memory:/docker/0123456789")
    write(root / "sys/fs/cgroup/memory/memory.limit_in_bytes", 2 * GB)
    write(root / "sys/fs/cgroup/memory/memory.usage_in_bytes", 3 * GB)  # over its limit: nothing is left
    assert read_memory(root) == Memory(2 * GB, 0)


@linux
def test_version_1_writes_no_limit_as_a_huge_number(root: Path) -> None:
    write(root / "proc/self/cgroup", "8:memory:/")
    write(root / "sys/fs/cgroup/memory/memory.limit_in_bytes", 2**63 - 4096)
    write(root / "sys/fs/cgroup/memory/memory.usage_in_bytes", 5 * GB)
    assert read_memory(root) == Memory(16 * GB, 12 * GB)


def test_this_machine_can_be_read() -> None:
    cpu, memory = read_cpu(), read_memory()
    assert cpu.name
    assert 1 <= cpu.cores <= cpu.threads <= (os.cpu_count() or 1)
    assert 0 < memory.available <= memory.total <= psutil.virtual_memory().total


@pytest.mark.parametrize(
    ("device", "features", "weights", "expected"),
    [
        ("cpu", ("avx2",), 1 * GB, "float32"),
        ("cpu", ("avx2",), 9 * GB, "float32"),  # does not fit: but emulated bf16 would not help anyone
        ("cpu", ("avx2", "avx512f"), 9 * GB, "float32"),
        ("cpu", ("avx512_bf16",), 1 * GB, "float32"),
        ("cpu", ("avx512_bf16",), 9 * GB, "bfloat16"),
        ("cpu", ("amx_bf16",), 9 * GB, "bfloat16"),
        ("cpu", ("neon", "bf16"), 9 * GB, "bfloat16"),
        ("cuda", ("avx2",), 1 * GB, "bfloat16"),
        ("cuda:1", (), 99 * GB, "bfloat16"),
    ],
)
def test_dtype_is_exact_where_it_can_be(device: str, features: tuple[str, ...], weights: int, expected: str) -> None:
    cpu = CPU("a processor", "x86_64", features, 2, 2)
    assert choose_dtype(device, weights, cpu, Memory(8 * GB, 8 * GB)) == expected
