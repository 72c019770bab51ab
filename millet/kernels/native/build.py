"""Compile the native kernels: `make native`, `python -m millet.kernels.native.build`, or by installing Millet.

A handful of C++ files need no build system: one process per core compiles them in a temporary folder, and the library
is renamed into place when it is whole. Every file is compiled once with flags that any processor of the architecture
understands; only `variant.cpp` is compiled once for each instruction set, and `dispatch.cpp` chooses among these at run
time. So the library loads anywhere, and one wheel serves every processor.

Installing runs this file where nothing but the standard library is there, so it imports nothing else.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from millet.errors import KernelsUnavailable

HERE = Path(__file__).resolve().parent
SOURCES = HERE / "src"
COMPILE = "`make native`" if (HERE.parents[2] / "Makefile").exists() else "`python -m millet.kernels.native.build`"

_ARCHITECTURE = {"aarch64": "arm64", "amd64": "x86_64"}.get(platform.machine().lower(), platform.machine().lower())
_COMMON = ["-std=c++17", "-O3", "-fPIC", "-fvisibility=hidden", "-ffp-contract=off", "-fno-math-errno"]
_COMMON += ["-fno-trapping-math", "-Wall", "-Wextra", "-Wno-maybe-uninitialized", "-pthread"]
# An undefined symbol is an error here and now, not when the library is loaded; macOS does so by itself.
_LINK = ["-shared", "-pthread", *(["-Wl,-z,defs"] if sys.platform == "linux" else [])]
_SANITIZE = ["-fsanitize=address,undefined", "-O1", "-g", "-fno-omit-frame-pointer"]
_AVX2 = ["-mavx2", "-mfma", "-mf16c"]
_AVX512 = ["-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mavx512vnni", "-mprefer-vector-width=512"]
# gcc 11 and 12 take their own headers for wrong (bug 105593); clang does not know the warning, and would say so.
_AVX512 += ["-Wno-maybe-uninitialized", "-Wno-unknown-warning-option"]

# The instruction sets that `variant.cpp` is compiled for, plainest first, and their flags.
VARIANTS: dict[str, list[str]] = {"scalar": []}
if _ARCHITECTURE == "x86_64":
    VARIANTS |= {"avx2": _AVX2, "avxvnni": [*_AVX2, "-mavxvnni"], "avx512": [*_AVX512, "-mf16c", "-mfma"]}
elif _ARCHITECTURE == "arm64":
    # Where the compiler's own choice has the dot product (Apple's), the plain build must be told to leave it. The other
    # asks for no more than `dispatch.cpp` looks for: not for arithmetic on halves, which a processor may lack.
    VARIANTS = {"scalar": ["-DMILLET_SCALAR=1"], "neon": ["-march=armv8.2-a+dotprod"]}


def library_path(sanitize: bool = False) -> Path:
    """Where the compiled library is, once it is."""
    return HERE / f"_native{'_asan' * sanitize}{'.dylib' if sys.platform == 'darwin' else '.so'}"


def build_id() -> str | None:
    """A hash of the sources and of every flag, or None where the sources are not."""
    files = sorted(path for path in SOURCES.glob("*") if path.suffix in (".cpp", ".h"))
    if not files:
        return None
    digest = hashlib.sha256(repr((_ARCHITECTURE, _COMMON, _LINK, _SANITIZE, VARIANTS)).encode())
    for path in files:
        content = path.read_bytes()
        digest.update(f"\n{path.name} {len(content)}\n".encode() + content)
    return digest.hexdigest()[:32]


def is_current(library: Path) -> bool:
    """Whether this library was compiled from the sources that are here; without sources, there is nothing to differ.

    The library holds its id as a text, so it is read without loading what may be stale or made for a sanitizer.
    """
    expected = build_id()
    return library.exists() and (expected is None or expected.encode() in library.read_bytes())


def compiler() -> list[str] | None:
    """The command that compiles C++ here: what CXX says, else the first that is there."""
    commands = (shlex.split(command) for command in _compilers())
    return next((command for command in commands if command and shutil.which(command[0])), None)


def build(force: bool = False, sanitize: bool = False, say: Callable[[str], object] = lambda text: None) -> Path:
    """Compile the library unless the one that is here is of the same sources, and return its path.

    say: told the compiler's warnings. On failure, KernelsUnavailable; a library that was there before stays.
    """
    library, identity = library_path(sanitize), build_id()
    if not force and is_current(library):
        return library
    if identity is None:
        raise KernelsUnavailable(f"the native kernels' sources are not in {SOURCES}; install Millet again")
    if os.name != "posix":
        raise KernelsUnavailable("native kernels are for Linux and macOS; use PyTorch's, which need no preparation")
    command = compiler()
    if command is None:
        raise KernelsUnavailable(
            f"there is no C++ compiler ({' or '.join(_compilers())}); "
            f"install one (on Debian or Ubuntu: apt install g++), then run {COMPILE}"
        )
    command += [*_COMMON, *(_SANITIZE if sanitize else ())]
    try:
        # Beside the library, as only within one file system a rename is atomic.
        with tempfile.TemporaryDirectory(prefix=".build-", dir=HERE) as folder:
            steps = _compilations(command, identity, Path(folder))
            with ThreadPoolExecutor(_cores()) as pool:
                for warnings in pool.map(_run, steps.values()):
                    say(warnings)
            say(_run([*command, *_LINK, *map(str, steps), "-o", f"{folder}/library"]))
            os.replace(f"{folder}/library", library)
    except OSError as error:
        raise KernelsUnavailable(f"the native kernels cannot be written ({error}); make {HERE} writable") from error
    return library


def _compilations(command: list[str], identity: str, folder: Path) -> dict[Path, list[str]]:
    """Object file -> the command that makes it. Variants whose flags this compiler does not know are left out."""
    variants = {name: flags for name, flags in VARIANTS.items() if _accepts(command, flags)}
    defines = [f'-DMILLET_BUILD_ID="{identity}"', *(f"-DMILLET_HAVE_{name.upper()}=1" for name in variants)]
    # The variants first: each takes longer than all the others together.
    steps = {f"variant-{name}": ["variant.cpp", f"-DMILLET_VARIANT={name}", *variants[name]] for name in variants}
    files = (path for path in sorted(SOURCES.glob("*.cpp")) if path.name != "variant.cpp")
    steps |= {path.stem: [path.name, *defines] for path in files}
    return {
        (target := folder / f"{name}.o"): [*command, "-c", *arguments, "-o", str(target)]
        for name, arguments in steps.items()
    }


def _accepts(command: list[str], flags: list[str]) -> bool:
    probe = [*command, *flags, "-fsyntax-only", "-x", "c++", os.devnull]
    return subprocess.run(probe, capture_output=True).returncode == 0


def _run(command: list[str]) -> str:
    """What the compiler said. It runs among the sources, so that its messages name files as a person does."""
    done = subprocess.run(command, cwd=SOURCES, capture_output=True, text=True, errors="replace")
    if done.returncode == 0:
        return done.stderr
    lines = done.stderr.splitlines() or [f"exit status {done.returncode}"]
    reason = next((line for line in lines if re.search(r"error:|undefined (reference|symbol)", line)), lines[-1])
    raise KernelsUnavailable(
        f"{command[0]} cannot compile the native kernels ({reason.strip()}); "
        f"mend that, or name another compiler in CXX, then run {COMPILE}"
    )


def _compilers() -> list[str]:
    return [os.environ["CXX"]] if os.environ.get("CXX") else ["c++", "g++", "clang++"]


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


if __name__ == "__main__":
    if "--check" in sys.argv:
        sys.exit(not is_current(library_path()))
    try:
        build(force="--force" in sys.argv, sanitize="--sanitize" in sys.argv, say=sys.stderr.write)
    except KernelsUnavailable as unavailable:
        sys.exit(f"error: {unavailable}")
