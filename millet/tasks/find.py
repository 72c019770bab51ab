"""From the name of a task to the task."""

from __future__ import annotations

import difflib
import importlib.util
import inspect
import os
import re
import sys
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType

from millet.errors import UnknownTask
from millet.tasks.code import CodeTask
from millet.tasks.gym import GymTask, gym_names
from millet.tasks.items import gsm8k, jsonl, mathematics, svamp
from millet.tasks.task import Task

VARIABLE = re.compile(r"\$\{?(\w+)")
GROUP = "millet.tasks"  # of entry points: an object of each is a task, or makes one
_FILE_MODULE = "millet_task_"  # and the file's path in hexadecimal, since a module's name can have no dots

FILE_KINDS: dict[str, Callable[[Path], Task]] = {
    "gsm8k": gsm8k,
    "svamp": svamp,
    "jsonl": jsonl,
    "math": mathematics,
    "code": CodeTask,
}


def find_task(name: str, beside: Path = Path()) -> Task:
    """The task by that name. beside: the folder that paths start from; $VARIABLES in them stand for the environment's.

    A dataset of reasoning-gym (`chain_sum`, `gym:chain_sum`, `countdown:min_numbers=3:max_numbers=3`); a file as
    `gsm8k:FILE`, `svamp:FILE`, `jsonl:FILE`, `math:FILE`, `code:FILE`; a Python file, or `FILE.py:NAME` where it has
    several tasks; an entry point of the group `millet.tasks`. Raises UnknownTask for a name that nothing has,
    MilletError where a library is missing.
    """
    kind, colon, rest = name.partition(":")
    if colon and kind == "gym":
        _check_gym(rest.partition(":")[0])
        return GymTask(rest)
    if colon and kind in FILE_KINDS:
        path = _path(rest, beside)
        if not path.is_file():
            unset = VARIABLE.search(os.path.expandvars(rest))
            what = f"set the environment variable {unset[1]}" if unset else f"write {kind}: and the path of one"
            raise UnknownTask(f"there is no file {rest!r}; {what}")
        return FILE_KINDS[kind](path)
    path_text, _, attribute = name.rpartition(":") if ".py:" in name else (name, "", "")
    if path_text.endswith(".py"):
        return _from_file(_path(path_text, beside), attribute)
    for entry in entry_points(group=GROUP, name=name):
        return _made(entry.load(), name)
    _check_gym(kind)
    return GymTask(name)


def task_file(name: str, beside: Path = Path()) -> Path | None:
    """The file that decides which problems a task has; None for one that is not of a file. See `find_task`."""
    kind, _, rest = name.partition(":")
    if kind in FILE_KINDS:
        return _path(rest, beside)
    path_text = name.rpartition(":")[0] if ".py:" in name else name
    return _path(path_text, beside) if path_text.endswith(".py") else None


def _path(text: str, beside: Path) -> Path:
    return beside / Path(os.path.expandvars(text)).expanduser()


def load_file(path: Path) -> ModuleType:
    """A Python file as a module whose name holds its path, so that other processes can load it by that name."""
    path = path.resolve()
    name = _FILE_MODULE + str(path).encode().hex()
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[name]
        if not isinstance(error, Exception):
            raise
        raise UnknownTask(f"{path} cannot be loaded: {_why_not(path, error)}") from error
    return module


def _why_not(path: Path, error: Exception) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name:
        beside = path.with_name(error.name.partition(".")[0])
        if beside.is_dir() or beside.with_suffix(".py").is_file():
            return (
                f"it imports {error.name}, which lies beside it, but a task is one file, whose hash is in the lineage; "
                "put that into it too, or install both as a package with an entry point"
            )
    return f"{type(error).__name__}: {error}; run it with python first"


def file_of(module: str) -> Path | None:
    """The file that `load_file` gave this name; None for the name of an ordinary module."""
    if not module.startswith(_FILE_MODULE):
        return None
    return Path(bytes.fromhex(module.removeprefix(_FILE_MODULE)).decode())


def _from_file(path: Path, attribute: str) -> Task:
    if not path.is_file():
        raise UnknownTask(f"there is no file {str(path)!r}; name a Python file with a task in it")
    module = load_file(path)
    found = {name: value for name, value in vars(module).items() if _is_task_of(module, value)}
    if attribute:
        if attribute not in found:
            raise UnknownTask(f"{path} has no task {attribute!r}{_near(attribute, found)}")
        return _made(found[attribute], f"{path}:{attribute}")
    if len(found) == 1:
        return _made(next(iter(found.values())), str(path))
    if found:
        raise UnknownTask(f"{path} has several tasks; name one, as in {path}:{min(found)}: {', '.join(sorted(found))}")
    raise UnknownTask(f"{path} has no task; a class with name, levels, sample and grade is one (see docs/teach.md)")


def _is_task_of(module: ModuleType, value: object) -> bool:
    """A class that is written there, or an object that is not just one of those classes again."""
    if inspect.isclass(value):
        return value.__module__ == module.__name__ and _has_parts(value)
    return not inspect.ismodule(value) and _has_parts(value)


def _has_parts(value: object) -> bool:
    return all(hasattr(value, part) for part in ("name", "levels", "sample", "grade"))


def _made(value: object, name: str) -> Task:
    """The task itself, where a class or function makes it."""
    try:
        task = value() if callable(value) else value
    except TypeError as error:
        raise UnknownTask(f"{name} cannot be made without arguments ({error}); make the object in the file") from None
    if not isinstance(task, Task):
        raise UnknownTask(f"{name} is no task; it needs name, levels, sample and grade (see docs/teach.md)")
    if not isinstance(task.levels, int) or task.levels < 1:
        raise UnknownTask(f"{name} has levels = {task.levels!r}; it must be a whole number of at least 1")
    return task


def _check_gym(dataset: str) -> None:
    names = gym_names()
    if dataset not in names:
        known = [*names, *(f"{kind}:FILE" for kind in FILE_KINDS), *(entry.name for entry in entry_points(group=GROUP))]
        raise UnknownTask(f"there is no task {dataset!r}{_near(dataset, known)}")


def _near(name: str, known: object) -> str:
    near = difflib.get_close_matches(name.lower(), list(known), n=3, cutoff=0.5)  # type: ignore[call-overload]
    return f"; did you mean {' or '.join(near)}?" if near else "; `millet task list` shows those that there are"
