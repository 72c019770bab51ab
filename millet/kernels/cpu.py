"""What this machine has: instruction sets that matter for inference, usable cores, and memory that may be used.

Containers count: a limit of any enclosing cgroup (version 1 or 2) on processors or memory is what the process really
has. Linux on x86 and Arm, and macOS, are read natively; elsewhere the portable answers remain and features are empty.
"""

from __future__ import annotations

import math
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil

ROOT = Path("/")

# The kernel's names, in the order in which they are reported -> ours. Only what decides between ways to compute.
_X86 = {n: n for n in ("avx2", "fma", "f16c", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16")}
_X86 |= {n: n for n in ("amx_int8", "amx_bf16")}
_ARM = {"asimd": "neon", "asimdhp": "fp16", "asimddp": "dotprod", "i8mm": "i8mm", "bf16": "bf16", "sve": "sve"}
_APPLE = {"AdvSIMD": "neon", "FEAT_FP16": "fp16", "FEAT_DotProd": "dotprod", "FEAT_I8MM": "i8mm", "FEAT_BF16": "bf16"}

_BF16_FEATURES = frozenset({"avx512_bf16", "amx_bf16", "bf16"})


@dataclass(frozen=True, slots=True)
class CPU:
    """name: the processor's own. architecture: x86_64, arm64, ... features: instruction sets, see the tables above.
    cores: physical cores this process may use, container limits included; threads: the same, counting hyper-threads.
    """

    name: str
    architecture: str
    features: tuple[str, ...]
    cores: int
    threads: int

    @property
    def native_bf16(self) -> bool:
        """Whether bf16 products run in hardware. Without it they are emulated, a hundred times slower than fp32."""
        return bool(_BF16_FEATURES & set(self.features))


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes. `available` can be taken without swapping or hitting a container's limit; `total` is the lowest limit."""

    total: int
    available: int


def read_cpu(root: Path = ROOT) -> CPU:
    """This machine's processor. `root` is where /proc and /sys are looked up."""
    architecture = {"aarch64": "arm64", "amd64": "x86_64"}.get(platform.machine().lower(), platform.machine().lower())
    if sys.platform == "darwin":
        name, features, cores, threads = _apple_cpu(architecture)
    else:
        name, features = _cpuinfo(_read(root / "proc/cpuinfo"))
        cores, threads = _usable_cores(root)
    quota = _cpu_quota(root)
    return CPU(
        name or platform.processor() or architecture, architecture, features, min(cores, quota), min(threads, quota)
    )


def read_memory(root: Path = ROOT) -> Memory:
    """Memory of this machine, or of the tightest cgroup this process lives in. `root` is where /proc and /sys are."""
    machine = psutil.virtual_memory()
    total, available = machine.total, machine.available
    for folder in _cgroups(root, "memory"):
        limit = _number(folder / "memory.max") or _number(folder / "memory.limit_in_bytes")
        used = _number(folder / "memory.current") or _number(folder / "memory.usage_in_bytes")
        if limit is None or used is None or limit >= machine.total:
            continue
        total = min(total, limit)
        available = min(available, limit - used + _reclaimable(folder))
    return Memory(total, max(0, available))


def choose_dtype(device: str, fp32_bytes: int, cpu: CPU, memory: Memory) -> Literal["float32", "bfloat16"]:
    """The number format a model should run in: exact where it can, small where it must.

    bf16 on CUDA. On a CPU always fp32, except where `fp32_bytes` (weights) do not fit into memory and the processor
    computes bf16 natively: emulated bf16 is never worth it.
    """
    if device.startswith("cuda"):
        return "bfloat16"
    return "bfloat16" if fp32_bytes > memory.available and cpu.native_bf16 else "float32"


def _cpuinfo(text: str) -> tuple[str, tuple[str, ...]]:
    """Name and features from /proc/cpuinfo; x86 says `model name` and `flags`, Arm `Features` and often no name."""
    fields: dict[str, str] = {}
    for line in text.splitlines():
        key, separator, value = line.partition(":")
        if separator:
            fields.setdefault(key.strip(), value.strip())
    flags = set((fields.get("flags") or fields.get("Features") or "").split())
    names = _X86 if "flags" in fields else _ARM
    return fields.get("model name", fields.get("Model", "")), tuple(
        ours for theirs, ours in names.items() if theirs in flags
    )


def _usable_cores(root: Path) -> tuple[int, int]:
    """(physical cores, hardware threads) that the scheduler may give this process."""
    if not hasattr(os, "sched_getaffinity"):
        threads = os.cpu_count() or 1
        return psutil.cpu_count(logical=False) or threads, threads
    usable = os.sched_getaffinity(0)
    topology = [root / f"sys/devices/system/cpu/cpu{n}/topology/thread_siblings_list" for n in usable]
    siblings = {_read(path) or str(path) for path in topology}
    return len(siblings), len(usable)


def _cpu_quota(root: Path) -> int:
    """Whole processors that the cgroups allow; rounded down, as a thread beyond the quota stalls all the others."""
    quotas = [math.inf]
    for folder in _cgroups(root, "cpu"):
        quota, _, period = _read(folder / "cpu.max").partition(" ")
        quota = quota or _read(folder / "cpu.cfs_quota_us")
        period = period or _read(folder / "cpu.cfs_period_us")
        if quota.isdigit() and period.isdigit() and int(period):
            quotas.append(int(quota) / int(period))
    lowest = min(quotas)
    return max(1, int(lowest)) if math.isfinite(lowest) else sys.maxsize


def _cgroups(root: Path, controller: str) -> Iterator[Path]:
    """Folders of the cgroups this process is in, innermost first, for version 2 and for version 1's `controller`.

    Inside a container the path that /proc names may not be mounted; the mount's own root then is the container's group.
    """
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        mount = root / "sys/fs/cgroup" / (controller if controllers else "")
        folder = mount / path.lstrip("/")
        while folder != mount:
            yield folder
            folder = folder.parent
        yield mount


def _reclaimable(folder: Path) -> int:
    """Bytes of a cgroup's use that are file cache the kernel gives back when asked."""
    for line in _read(folder / "memory.stat").splitlines():
        key, _, value = line.partition(" ")
        if key in ("inactive_file", "total_inactive_file"):
            return int(value)
    return 0


def _apple_cpu(architecture: str) -> tuple[str, tuple[str, ...], int, int]:
    if architecture == "arm64":
        optional = (("neon" if name == "AdvSIMD" else f"arm.{name}", ours) for name, ours in _APPLE.items())
        features = tuple(ours for key, ours in optional if _sysctl(f"hw.optional.{key}") == "1")
    else:
        flags = set(f"{_sysctl('machdep.cpu.features')} {_sysctl('machdep.cpu.leaf7_features')}".lower().split())
        features = tuple(name for name in _X86 if name in flags)
    threads = os.cpu_count() or 1
    fast = _sysctl("hw.perflevel0.physicalcpu") or _sysctl(
        "hw.physicalcpu"
    )  # efficiency cores would hold the others up
    return _sysctl("machdep.cpu.brand_string"), features, int(fast) if fast.isdigit() else threads, threads


def _sysctl(key: str) -> str:
    try:
        return subprocess.run(["sysctl", "-n", key], capture_output=True, text=True, timeout=5).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return ""


def _number(path: Path) -> int | None:
    text = _read(path)
    return int(text) if text.isdigit() else None


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""
