"""Compiling, finding and refusing the native library, in a small copy of the tree with sources of a few lines."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from millet.kernels.native.build import VARIANTS, compiler

ROOT = Path(__file__).parents[2]
COPIED = ["pyproject.toml", "README.md", "LICENSE", "hatch_build.py", "Makefile", "millet/__init__.py"]
COPIED += ["millet/errors.py", "millet/kernels/__init__.py"]
NATIVE = Path("millet/kernels/native")
LIBRARY = "_native.dylib" if sys.platform == "darwin" else "_native.so"

DISPATCH = """
#include <cstdlib>
#include <cstring>
#define EXPORT extern "C" __attribute__((visibility("default")))
EXPORT const char* millet_build_id() { return MILLET_BUILD_ID; }
EXPORT const char* millet_variant() {
    const char* forced = std::getenv("MILLET_KERNELS");
#if MILLET_HAVE_AVX2
    if (forced && std::strcmp(forced, "avx2") == 0) return "avx2";
#endif
    return "scalar";
}
"""
# Each variant tells the widest instructions that its flags allow.
VARIANT = """
#define PASTE(name) width_of_##name
#define FUNCTION(name) PASTE(name)
extern "C" __attribute__((visibility("default"))) int FUNCTION(MILLET_VARIANT)() {
#if defined(__AVX512VNNI__) && defined(__AVX512BW__)
    return 512;
#elif defined(__AVXVNNI__)
    return 257;
#elif defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
    return 256;
#elif defined(__ARM_FEATURE_DOTPROD) && !defined(MILLET_SCALAR)
    return 129;
#else
    return 128;
#endif
}
"""
WIDTHS = {"scalar": 128, "avx2": 256, "avxvnni": 257, "avx512": 512, "neon": 129}

BUILD = "from millet.kernels.native.build import build; print(build())"
LOAD = "from millet.kernels.native.library import variant, why_not; print(variant(), why_not(), sep='; ')"

needs_compiler = pytest.mark.skipif(compiler() is None, reason="there is no C++ compiler")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    tree = tmp_path / "tree"
    (tree / NATIVE / "src").mkdir(parents=True)
    for name in COPIED:
        shutil.copy(ROOT / name, tree / name)
    for path in (ROOT / NATIVE).glob("*.py"):
        shutil.copy(path, tree / NATIVE)
    (tree / NATIVE / "src/dispatch.cpp").write_text(DISPATCH)
    (tree / NATIVE / "src/variant.cpp").write_text(VARIANT)
    return tree


def python(tree: Path, code: str, *options: str, **settings: str) -> tuple[int, str]:
    """Exit status and all output of Python in the tree, as if that were where Millet lives."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("MILLET_", "CXX", "PYTHON"))}
    done = subprocess.run(
        [sys.executable, *options, "-c", code],
        cwd=tree,
        env=kept | {"PYTHONPATH": str(tree), "MILLET_WEB": "off"} | settings,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return done.returncode, done.stdout.strip()


def message(result: tuple[int, str]) -> str:
    """The one line that a person would see of an error."""
    status, output = result
    assert status == 1, output
    last = output.splitlines()[-1]
    assert last.startswith("millet.errors.KernelsUnavailable: "), output
    return last


def files(tree: Path) -> set[str]:
    return {path.name for path in (tree / NATIVE).iterdir()} - {"__pycache__"}


@needs_compiler
def test_the_library_holds_every_variant_compiled_with_its_own_flags(tree: Path) -> None:
    before = files(tree)
    assert python(tree, BUILD) == (0, str(tree / NATIVE / LIBRARY))
    assert files(tree) == before | {LIBRARY}
    status, output = python(tree, LOAD)
    assert (status, output) == (0, "scalar; None")
    ask = "from millet.kernels.native.library import library; print(getattr(library(), 'width_of_{}')())"
    for name in VARIANTS:
        assert python(tree, ask.format(name)) == (0, str(WIDTHS[name]))


def test_compiling_needs_nothing_but_the_standard_library(tree: Path) -> None:
    code = (
        "import sys, millet.kernels.native.build; "
        "print({name.split('.')[0] for name in sys.modules} - sys.stdlib_module_names)"
    )
    status, output = python(tree, code, "-S")  # without site-packages and what their .pth files import
    assert status == 0, output
    assert eval(output) == {"millet", "__main__"} - sys.stdlib_module_names | {"millet"}


@needs_compiler
def test_only_a_change_of_the_sources_compiles_again_and_a_stale_library_is_refused(tree: Path) -> None:
    python(tree, BUILD)
    library = tree / NATIVE / LIBRARY
    first = library.stat().st_ino, library.stat().st_mtime_ns
    assert python(tree, BUILD, PATH="")[0] == 0, "a compiler was looked for"
    assert (library.stat().st_ino, library.stat().st_mtime_ns) == first
    (tree / NATIVE / "src/more.h").write_text("// one more header\n")
    assert python(tree, LOAD) == (0, "None; compiled from other sources than those here; run `make native`")
    assert python(tree, BUILD)[0] == 0
    assert python(tree, LOAD) == (0, "scalar; None")
    shutil.rmtree(tree / NATIVE / "src")
    assert python(tree, LOAD) == (0, "scalar; None"), "without sources there is nothing to differ from"


@needs_compiler
def test_a_compile_error_is_one_line_and_leaves_what_was_there(tree: Path) -> None:
    python(tree, BUILD)
    before, content = files(tree), (tree / NATIVE / LIBRARY).read_bytes()
    (tree / NATIVE / "src/wrong.cpp").write_text("#include <cstdlib>\nint wrong( { }\n")
    said = message(python(tree, BUILD))
    assert "wrong.cpp:2:" in said
    assert "error:" in said
    assert "CXX" in said
    assert files(tree) == before
    assert (tree / NATIVE / LIBRARY).read_bytes() == content


@needs_compiler
@pytest.mark.skipif(sys.platform != "linux", reason="the linker's words are GNU's")
def test_a_function_that_nobody_wrote_is_found_when_linking(tree: Path) -> None:
    (tree / NATIVE / "src/calls.cpp").write_text("int missing();\nint calls() { return missing(); }\n")
    assert "undefined" in message(python(tree, BUILD))


def test_without_a_compiler_the_error_says_what_to_install(tree: Path, tmp_path: Path) -> None:
    said = message(python(tree, BUILD, PATH=str(tmp_path)))
    assert "apt install g++" in said
    assert "`make native`" in said
    assert "no-such-compiler" in message(python(tree, BUILD, CXX="no-such-compiler -q"))
    status, output = python(tree, LOAD, PATH=str(tmp_path))
    assert status == 0
    assert output.startswith("None; no C++ compiler; install one")


@needs_compiler
@pytest.mark.skipif("avxvnni" not in VARIANTS, reason="an x86 matter")
def test_a_variant_that_the_compiler_does_not_know_is_left_out(tree: Path, tmp_path: Path) -> None:
    old = tmp_path / "old"
    old.write_text(f'#!/bin/sh\ncase "$*" in *-mavxvnni*) exit 1 ;; esac\nexec {" ".join(compiler() or [])} "$@"\n')
    old.chmod(0o755)
    assert python(tree, BUILD, CXX=str(old))[0] == 0
    ask = "from millet.kernels.native.library import library; print([hasattr(library(), 'width_of_' + n) for n in {}])"
    assert python(tree, ask.format(["avx2", "avxvnni"])) == (0, "[True, False]")
    assert "avxvnni is not for this processor" in message(python(tree, LOAD, MILLET_KERNELS="avxvnni"))


@needs_compiler
def test_what_is_asked_for_by_name_is_had_or_refused(tree: Path, tmp_path: Path) -> None:
    assert "not compiled yet" in message(python(tree, LOAD, MILLET_KERNELS="scalar"))
    python(tree, BUILD)
    assert python(tree, LOAD, MILLET_KERNELS="scalar") == (0, "scalar; None")
    status, output = python(tree, LOAD, MILLET_KERNELS="off")
    assert (status, output) == (0, "None; MILLET_KERNELS=off; unset it to use the native kernels")
    unknown = message(python(tree, LOAD, MILLET_KERNELS="avx9"))
    assert all(name in unknown for name in ("avx9", "off", *VARIANTS))
    elsewhere = shutil.move(tree / NATIVE / LIBRARY, tmp_path / "elsewhere.so")
    assert python(tree, LOAD, MILLET_NATIVE_LIBRARY=str(elsewhere)) == (0, "scalar; None")
    assert "there is no such file" in message(python(tree, LOAD, MILLET_NATIVE_LIBRARY=str(tree / "none.so")))


def test_a_library_that_does_not_load_is_a_reason_and_not_a_crash(tree: Path) -> None:
    status, identity = python(tree, "from millet.kernels.native.build import build_id; print(build_id())")
    assert status == 0
    (tree / NATIVE / LIBRARY).write_text(f"no library, but {identity}")
    status, output = python(tree, LOAD)
    assert status == 0, output
    assert "does not load" in output


def wheel(tree: Path, **settings: str) -> tuple[str, set[str], str]:
    """Name and native files of the wheel that an installer would get, and what was said meanwhile."""
    out = tree.parent / "out"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    status, output = python(tree, f"import hatchling.build; hatchling.build.build_wheel({str(out)!r})", **settings)
    assert status == 0, output
    (path,) = out.iterdir()
    with zipfile.ZipFile(path) as archive:
        inside = {name for name in archive.namelist() if Path(name).parts[:-1] == NATIVE.parts}
        inside |= {name for name in archive.namelist() if name.endswith(".cpp")}
    return path.name, {Path(name).name for name in inside if not name.endswith(".py")}, output


@needs_compiler
def test_a_wheel_has_the_library_and_its_platform(tree: Path) -> None:
    shutil.copy(ROOT / ".gitignore", tree)  # which hatchling heeds, and the library is in it
    name, inside, _ = wheel(tree)
    assert name.startswith("millet_llm-")
    assert "-py3-none-" in name
    assert not name.endswith("-any.whl")
    assert inside == {LIBRARY, "dispatch.cpp", "variant.cpp"}


@needs_compiler
def test_an_editable_install_compiles_in_place(tree: Path) -> None:
    build = "from hatchling.builders.wheel import WheelBuilder as B; list(B('.').build(versions=['editable'], {}))"
    status, output = python(tree, build.format("hooks_only=True"))  # the wheel itself would only point to the tree
    assert status == 0, output
    assert python(tree, LOAD) == (0, "scalar; None")


def test_without_a_compiler_the_wheel_is_pure_python_and_says_so(tree: Path, tmp_path: Path) -> None:
    shutil.copy(ROOT / ".gitignore", tree)
    (tree / NATIVE / LIBRARY).write_text("stale")
    name, inside, output = wheel(tree, PATH=str(tmp_path))
    assert name.endswith("-py3-none-any.whl")
    assert inside == {"dispatch.cpp", "variant.cpp"}
    assert "native kernels are left out: there is no C++ compiler" in output
    name, _, output = wheel(tree, PATH=str(tmp_path), MILLET_NATIVE="off")
    assert name.endswith("-py3-none-any.whl")
    assert "native" not in output
    command = "import hatchling.build; hatchling.build.build_wheel('.')"
    assert "no C++ compiler" in message(python(tree, command, PATH=str(tmp_path), MILLET_NATIVE="required"))
    status, output = python(tree, command, MILLET_NATIVE="requird")
    assert status == 1
    assert "MILLET_NATIVE=requird is unknown" in output
