"""What is wrong with a request, in words that help, and without repeating what the request said."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError, field_validator

from millet.models.chat_template import DEEPEST
from millet.serve.errors import ApiError

# What pydantic puts into an error's path beside the request's own keys: the branch of a union it tried.
FIELD = re.compile(r"[a-z_][a-z0-9_]{0,63}")
BRANCHES = frozenset({"str", "int", "float", "bool", "list", "dict", "none", "any"})
PLACES = frozenset({"body", "query", "path", "header"})  # where in a request FastAPI found it
SHOULD = re.compile(r"(Input|String|List|Dictionary) should (?P<what>.*)")
JSON_TYPES = {bool: "a boolean", str: "a string", list: "a list", dict: "an object", type(None): "null"}
SHORT = 10**9  # numbers from here on are named by their type alone


class Body(BaseModel):
    """Fields that are not named are ignored, as the services do whose clients these are. Types are JSON's: "5" is not
    a number, and true is not 1. What is passed on as it is, such as schemas, is not too deep, and can be sent."""

    model_config = ConfigDict(extra="ignore", strict=True)

    @field_validator("*")
    @classmethod
    def _sendable(cls, value: Any) -> Any:
        level, depth = [value], 0
        while level:
            depth += 1
            if depth > DEEPEST:
                raise ValueError(f"should be nested at most {DEEPEST} levels deep")
            level = [inner for item in level for inner in _inside(item)]
        return value


def at_most(count: int) -> BeforeValidator:
    """For an object with any keys: refuse more of them before each is looked at, since all that is wrong is collected.

    For the same reason every list has a max_length, and those that hold other lists are fail_fast: else a request that
    is wrong in a million places would hold up the server for a minute.
    """

    def check(value: Any) -> Any:
        if isinstance(value, dict) and len(value) > count:
            raise ValueError(f"should have at most {count} items")
        return value

    return BeforeValidator(check)


def tag_of(*kinds: str, default: str = "other") -> Callable[[Any], str]:
    """For a pydantic Discriminator: the tag of an object is its `type` in angle brackets, <other> if not among kinds.

    default: the kind of an object that names no type. The brackets tell tags from keys in the path of an error.
    """

    def tag(value: Any) -> str:
        kind = value.get("type", default) if isinstance(value, dict) else getattr(value, "type", default)
        return f"<{kind}>" if isinstance(kind, str) and kind in kinds else "<other>"

    return tag


def first_problem(error: ValidationError | RequestValidationError) -> ApiError:
    """The first thing that is wrong: 422, the field's path as param, what is expected there, and what kind of value
    stands there instead. Of a string nothing is repeated: it may be what somebody wrote to the model."""
    problems = [(_path(problem["loc"]), problem) for problem in error.errors()]
    # Of a union there is one problem for each branch: the branch that got furthest is the one that was meant.
    here = problems[0][0]
    inside = [(path, problem) for path, problem in problems if path[: len(here)] == here]
    path = max((path for path, _ in inside), key=len)
    meant = [problem for found, problem in inside if found == path]
    meant = [problem for problem in meant if not problem["type"].endswith("_type")] or meant
    field = ".".join(map(str, path))
    wanted = " or ".join(dict.fromkeys(map(_wanted, meant)))
    wants = "is missing" if meant[0]["type"] == "missing" else f"should {wanted}{_got(meant[0])}"
    return ApiError(422, f"{field or 'the request body'} {wants}", param=field or None)


def _inside(item: Any) -> list[Any]:
    """What a JSON value holds. Raises ValueError for what JSON cannot say."""
    if isinstance(item, dict):
        return [*item.keys(), *item.values()]
    if isinstance(item, list):
        return item
    if isinstance(item, float) and not math.isfinite(item):
        raise ValueError("should hold no NaN or infinity")
    if isinstance(item, str) and not item.isascii() and any("\ud800" <= char <= "\udfff" for char in item):
        raise ValueError("should hold no half of a surrogate pair")
    return []


def _path(location: tuple[int | str, ...]) -> tuple[int | str, ...]:
    location = location[1:] if location and location[0] in PLACES else location
    return tuple(part for part in location if isinstance(part, int) or (FIELD.fullmatch(part) and part not in BRANCHES))


def _wanted(problem: Any) -> str:
    if problem["type"] in ("model_type", "model_attributes_type"):
        return "be an object"
    # "Input should be greater than 0" and the like; pydantic's other texts begin otherwise and may quote the input.
    text = problem["msg"].removeprefix("Value error, ").replace(" after validation", "")
    match = SHOULD.fullmatch(text if not text.startswith("should") else f"Input {text}")
    return match["what"].partition(", unable to ")[0] if match else "be of another form"


def _got(problem: Any) -> str:
    value = problem["input"]
    if not problem["msg"].startswith("Input should") or problem["type"] == "literal_error":
        return ""  # the type is right, and the value may be anything
    if isinstance(value, int | float) and not isinstance(value, bool):
        return f", not {value}" if abs(value) < SHORT else ", not so large a number"
    return f", not {JSON_TYPES[type(value)]}" if type(value) in JSON_TYPES else ""
