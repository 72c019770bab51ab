import json
from typing import Annotated, Any, Literal

import pytest
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.testclient import TestClient
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Discriminator, Field, Tag, ValidationError

from millet.models.chat_template import DEEPEST
from millet.serve.anthropic import MessagesBody
from millet.serve.completions import CompletionBody
from millet.serve.errors import ApiError
from millet.serve.openai_chat import ChatBody
from millet.serve.responses import ResponsesBody
from millet.serve.routes.conversations import Document
from millet.serve.validation import Body, first_problem, tag_of


class Leaf(Body):
    type: Literal["leaf"]
    text: str


class Other(Body):
    type: str


class Tree(Body):
    count: Annotated[int, Field(ge=1)] = 1
    share: Annotated[float, Field(ge=0, le=1)] | None = None
    name: Annotated[str, Field(min_length=1, pattern="^[a-z]+$")] = "a"
    choice: Literal["this", "that"] | Leaf | None = None
    leaves: (
        str
        | list[
            Annotated[Annotated[Leaf, Tag("<leaf>")] | Annotated[Other, Tag("<other>")], Discriminator(tag_of("leaf"))]
        ]
    ) = ""
    labels: Annotated[dict[str, str], Field(max_length=1)] | None = None
    schema_: dict[str, Any] = Field(default_factory=dict, alias="schema")


def problem(body: Any, model: type[Body] = Tree) -> ApiError:
    with pytest.raises(ValidationError) as caught:
        model.model_validate(body)
    return first_problem(caught.value)


def nested(levels: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(levels - 1):
        value = {"a": value}
    return value


@pytest.mark.parametrize(
    ("body", "param", "message"),
    [
        ({"count": 0}, "count", "count should be greater than or equal to 1, not 0"),
        ({"count": True}, "count", "count should be a valid integer, not a boolean"),
        ({"count": "12"}, "count", "count should be a valid integer, not a string"),
        ({"count": None}, "count", "count should be a valid integer, not null"),
        ({"share": 1.5}, "share", "share should be less than or equal to 1, not 1.5"),
        ({"share": 10**400}, "share", None),
        ({"share": float("nan")}, "share", None),
        ({"name": ""}, "name", "name should have at least 1 character"),
        ({"name": "Mrs Secret"}, "name", "name should match pattern '^[a-z]+$'"),
        ({"choice": "secret"}, "choice", "choice should be 'this' or 'that'"),
        ({"choice": {"type": "leaf"}}, "choice.text", "choice.text is missing"),
        ({"leaves": 5}, "leaves", "leaves should be a valid string or be a valid list, not 5"),
        ({"leaves": [{"type": "leaf", "text": 5}]}, "leaves.0.text", "leaves.0.text should be a valid string, not 5"),
        ({"leaves": ["secret"]}, "leaves.0", "leaves.0 should be an object, not a string"),
        ({"labels": {"my secret": 5}}, "labels", "labels should be a valid string, not 5"),
        ({"labels": {"a": "b", "c": "d"}}, "labels", "labels should have at most 1 item, not more"),
        ({"schema": []}, "schema", "schema should be a valid dictionary, not a list"),
        ({"schema": nested(70_000)}, "schema", f"schema should be nested at most {DEEPEST} levels deep"),
        ({"schema": {"a": [float("inf")]}}, "schema", "schema should hold no NaN or infinity"),
        ({"schema": {"\ud800": 1}}, "schema", "schema should hold no half of a surrogate pair"),
        ([], None, "the request body should be an object, not a list"),
    ],
)
def test_first_problem(body: Any, param: str | None, message: str | None) -> None:
    told = problem(body)
    assert told.status == 422
    assert told.param == param
    assert message is None or str(told) == message
    assert "secret" not in json.dumps(told.body).lower()


def test_what_is_not_named_is_ignored_and_schemas_may_be_as_deep_as_templates_take_them() -> None:
    assert Tree.model_validate({"cache_control": {"type": "ephemeral"}}) == Tree()
    Tree.model_validate({"schema": nested(DEEPEST)})


@pytest.mark.parametrize(
    ("request_body", "param", "message"),
    [
        (b'{"model": "m", "max_tokens": 0, "messages": [{"role": "user", "content": "hi"}]}', "max_tokens", None),
        (b'{"model": "m", "max_tokens": 1, "messages": [{"role": "user", "content": [{"type": "text"}]}]}', None, None),
        (b"[]", None, "the request body should be an object, not a list"),
        (b"", None, "the request body is missing"),
    ],
)
def test_what_fastapi_finds_wrong_reads_the_same(request_body: bytes, param: str | None, message: str | None) -> None:
    app = FastAPI()
    told: list[ApiError] = []

    @app.post("/")
    async def post(body: MessagesBody) -> None: ...

    @app.exception_handler(RequestValidationError)
    async def handler(request: Request, error: RequestValidationError) -> Response:
        told.append(first_problem(error))
        return Response(status_code=422)

    TestClient(app).post("/", content=request_body, headers={"content-type": "application/json"})
    if request_body.startswith(b"{"):
        expected = problem(json.loads(request_body), MessagesBody)
        assert (told[0].param, str(told[0])) == (expected.param, str(expected))
        assert param is None or told[0].param == param
    else:
        assert (told[0].param, str(told[0])) == (None, message)


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.just("SECRET") | st.just("\ud800SECRET"),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["SECRET key", "type", "role", "content", "text", "model", "input", "messages"]),
            inner | st.sampled_from(["text", "tool_use", "user", "message", "function", "input_text"]),
            max_size=5,
        )
    ),
)


@settings(max_examples=60, print_blob=True)
@given(body=st.fixed_dictionaries({"model": ANYTHING, "input": ANYTHING, "messages": ANYTHING, "tools": ANYTHING}))
@pytest.mark.parametrize("model", [MessagesBody, ResponsesBody, Tree])
def test_any_body_is_taken_or_refused_in_words_that_repeat_nothing(model: type[Body], body: Any) -> None:
    try:
        model.model_validate(body)
    except ValidationError as error:
        told = first_problem(error)
        assert told.status == 422
        assert "SECRET" not in str(told.body)
        assert len(str(told)) < 300


EVERYWHERE = [1] * 50_000
WRONG: list[tuple[type[BaseModel], dict[str, Any]]] = [
    (ChatBody, {"messages": EVERYWHERE[:2048]}),
    (ChatBody, {"messages": [{"role": "user", "content": EVERYWHERE[:1024]}] * 2048}),
    (ChatBody, {"messages": [{"role": "user", "content": EVERYWHERE}]}),
    (ChatBody, {"messages": [{"role": "assistant", "tool_calls": [{}] * 50_000}]}),
    (ChatBody, {"messages": [], "logit_bias": {str(number): "x" for number in range(50_000)}}),
    (ChatBody, {"messages": [], "stop": EVERYWHERE, "tools": EVERYWHERE}),
    (MessagesBody, {"messages": [{"role": "user", "content": EVERYWHERE[:1024]}] * 2048, "system": EVERYWHERE}),
    (
        MessagesBody,
        {"messages": [{"role": "user", "content": [{"type": "tool_result", "content": EVERYWHERE[:1024]}] * 1024}]},
    ),
    (ResponsesBody, {"input": [{"role": "user", "content": EVERYWHERE[:1024]}] * 4096, "include": EVERYWHERE}),
    (ResponsesBody, {"input": "x", "metadata": {str(number): 1 for number in range(50_000)}, "tools": EVERYWHERE}),
    (CompletionBody, {"prompt": EVERYWHERE, "stop": EVERYWHERE}),
    (Document, {"messages": [{"tool_calls": EVERYWHERE[:1024]}] * 20_000}),
]


@pytest.mark.parametrize(("body", "fields"), WRONG, ids=range(len(WRONG)))
def test_what_is_wrong_in_very_many_places_is_not_told_of_them_all(
    body: type[BaseModel], fields: dict[str, Any]
) -> None:
    """Collecting a million errors holds up everybody for a minute."""
    with pytest.raises(ValidationError) as caught:
        body.model_validate({"model": "m", "max_tokens": 1, **fields})
    assert caught.value.error_count() < 5000
