"""Every dataset of reasoning-gym as a task: its problems, its levels, its own scorers.

Level 0 is the dataset with its default settings. The levels behind it are those of its curriculum, easiest first; those
whose settings the dataset itself refuses are left out. What is right is the dataset's own scorer to say. Its shares for
what is not right are not paid out: they reward lists of candidates, the prompt again, and empty forms of an answer.
"""

from __future__ import annotations

import ast
import difflib
import io
import random
from collections.abc import Mapping
from contextlib import redirect_stdout
from dataclasses import fields
from functools import lru_cache
from typing import Any

from millet.errors import MilletError, UnknownTask
from millet.tasks.extract import extract_answer
from millet.tasks.task import Answered, Grade, PlainReply, Problem
from millet.tasks.worked import work

_TRIES = 8  # some generators give up on unlucky seeds
_LONGEST = 2000  # characters of an answer, besides ten times the right one's
_UNSETTLED = "composite"  # means nothing without a list of other datasets


def gym_names() -> list[str]:
    """Of all datasets. Raises MilletError where reasoning-gym is not installed."""
    return sorted(set(_library().DATASETS) - {_UNSETTLED})


class GymTask:
    def __init__(self, name: str) -> None:
        """name: a dataset's, and behind colons settings that are not its default ones, as in
        `countdown:min_numbers=3:max_numbers=3`; such a task has one level.

        Raises MilletError where reasoning-gym is not installed, UnknownTask where it has no such dataset or setting.
        """
        dataset, *settings = name.split(":")
        if dataset not in gym_names():
            raise UnknownTask(f"reasoning-gym has no dataset {dataset!r}; `millet task list` shows all")
        self.dataset = dataset
        self.name = f"gym:{name}"
        self._settings = _settings(dataset, settings)
        self._curriculum_levels = [] if settings else _curriculum_levels(dataset)
        self.levels = 1 + len(self._curriculum_levels)
        self.climb = range(1, self.levels) if self._curriculum_levels else range(1)  # 0 is of all difficulties at once

    def sample(self, rng: random.Random, level: int) -> Problem:
        build = _library().DATASETS[self.dataset][0]
        for _ in range(_TRIES):
            config = self._config(level, seed=rng.getrandbits(31))  # numpy's generators take no more than 32 bits
            try:
                with redirect_stdout(io.StringIO()):  # some print, and standard output may be a program's to read
                    entry = build(config)[0]
            except (ValueError, RuntimeError, AssertionError):
                continue
            answer = entry["answer"]
            return Problem(entry["question"], answer if isinstance(answer, str) else "", {"entry": entry})
        raise MilletError(f"{self.name} made no problem at level {level} in {_TRIES} attempts; leave that level out")

    def grade(self, problem: Problem, reply: Answered) -> Grade:
        answer = extract_answer(reply.content, problem.answer, problem.prompt)
        if not answer:
            return Grade(0, "no answer")
        if len(answer) > _LONGEST + 10 * len(problem.answer):
            return Grade(0, "too long")  # some scorers pick what they can read out of anything
        if "__" in answer and "__" not in problem.prompt + problem.answer:
            return Grade(0, "not an answer")  # some scorers evaluate expressions as Python
        try:
            score = float(_scorer(self.dataset).score_answer(answer, problem.meta["entry"]))
        except Exception as error:  # some scorers expect the right form
            if not self._is_readable(problem):
                raise  # it is the scorer that fails, and not the reply
            return Grade(0, f"unreadable to the scorer ({type(error).__name__})")
        return Grade(1, "right") if score >= 1 else Grade(0, f"wrong; its own score is {score:.2f}")

    def work(self, problem: Problem) -> PlainReply:
        """How a person would get to the answer on paper. Raises Unworked where there is no way to show."""
        return work(self.dataset, problem.meta["entry"])

    def _is_readable(self, problem: Problem) -> bool:
        """Whether the scorer can read the right answer at least."""
        try:
            _scorer(self.dataset).score_answer(problem.answer, problem.meta["entry"])
        except Exception:
            return False
        return bool(problem.answer)

    def _config(self, level: int, seed: int) -> Any:
        if level > 0:
            return _curriculum_config(self.dataset, self._curriculum_levels[level - 1], seed)
        return _library().DATASETS[self.dataset][1](seed=seed, size=1, **self._settings)


def _settings(dataset: str, given: list[str]) -> Mapping[str, Any]:
    """From name=value, where a value is a number, True, or a list of Python's, and text else."""
    config = _library().DATASETS[dataset][1]
    known = [field.name for field in fields(config) if field.name not in ("seed", "size")]
    found: dict[str, Any] = {}
    for each in given:
        name, equals, value = each.partition("=")
        if not equals or name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
            raise UnknownTask(f"{dataset} has no setting {each!r}; {hint}" + ("" if equals else " (write NAME=VALUE)"))
        try:
            found[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            found[name] = value
    try:
        made = config(seed=0, size=1, **found)
        if hasattr(made, "validate"):  # not all have it
            made.validate()
    except (AssertionError, ValueError, TypeError) as error:
        raise UnknownTask(f"{dataset} refuses these settings ({error}); see reasoning-gym for what it takes") from None
    return found


@lru_cache
def _scorer(dataset: str) -> Any:
    build, config = _library().DATASETS[dataset]
    return build(config(seed=0, size=1))


def _curriculum_levels(dataset: str) -> list[int]:
    """Those of its curriculum's levels whose settings are valid."""
    curricula = _library().CURRICULA
    if dataset not in curricula:
        return []
    attributes = curricula[dataset]().attributes.values()
    count = max((len(attribute.levels) for attribute in attributes), default=0)
    return [level for level in range(count) if _is_valid(dataset, level)]


def _is_valid(dataset: str, curriculum_level: int) -> bool:
    try:
        config = _curriculum_config(dataset, curriculum_level, seed=0)
        if hasattr(config, "validate"):
            config.validate()
    except (AssertionError, ValueError):
        return False
    return True


def _curriculum_config(dataset: str, curriculum_level: int, seed: int) -> Any:
    curriculum = _library().CURRICULA[dataset]()
    curriculum.set_global_level(curriculum_level)
    return curriculum.generate_configuration({"seed": seed, "size": 1})


def _library() -> Any:
    try:
        from reasoning_gym import factory
    except ImportError:
        raise MilletError("reasoning-gym is not installed; pip install 'millet-llm[teach]'") from None
    return factory
