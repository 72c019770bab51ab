from __future__ import annotations

from typing import Any

import pytest

from millet.engine.engine import Engine
from millet.errors import BadRequest
from millet.models.chat_template import ChatTemplate
from millet.reasoning.assistant import Assistant
from millet.reasoning.tools import ToolTemplate, parse_tools, shown_messages, tool_template
from tests.reasoning.fakes import PLAIN
from tests.reasoning.toys import FIXTURES, toy_model

TOOL = {"type": "function", "function": {"name": "clock", "description": "The time.", "parameters": {"type": "object"}}}
ASK = {"role": "user", "content": "?"}
CALL = {"id": "call_1", "type": "function", "function": {"name": "clock", "arguments": '{"zone": "CET"}'}}
TALK: list[dict[str, Any]] = [
    {"role": "system", "content": "Be kind."},
    ASK,
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "call_1", "content": "noon"},
]
OBJECTS = (
    "{% for m in messages %}{{ m.role }}:{{ m.content }}{% for c in m.tool_calls or [] %}{{ c.function.name }}"
    "{{ c.function.arguments | tojson }}{% endfor %}|{% endfor %}"
)


def template_of(fixture: str) -> ChatTemplate:
    return ChatTemplate((FIXTURES / fixture / "chat_template.jinja").read_text(), {})


@pytest.mark.parametrize(("tools", "choice", "words"), [
    ("x", None, "tools must be a list"),
    ([TOOL] * 129, None, "at most 128"),
    ([TOOL, TOOL], None, "tool 2 is another function 'clock'"),
    ([{"type": "function"}], None, "tool 1 must be"),
    ([{"type": "search", "function": TOOL["function"]}], None, "tool 1 must be"),
    ([{"type": "function", "function": {"name": "a b"}}], None, "tool 1 must be"),
    ([{"type": "function", "function": {"name": "a", "parameters": [1]}}], None, "parameters of the tool 'a'"),
    ([], "required", "there are no tools"),
    (None, {"type": "function", "function": {"name": "clock"}}, "there are no tools"),
    ([TOOL], "perhaps", "it must be none, auto, required"),
    ([TOOL], {"type": "function", "function": {"name": "cloak"}}, "one of the tools"),
    ([TOOL], {"type": "function", "function": "clock"}, "one of the tools"),
])  # fmt: skip
def test_bad_tools(tools: Any, choice: Any, words: str) -> None:
    with pytest.raises(BadRequest, match=words) as error:
        parse_tools(tools, choice)
    assert "\n" not in str(error.value)


def test_choices() -> None:
    assert parse_tools(None, None) is parse_tools([], "auto") is parse_tools([TOOL], "none") is None
    other = {"type": "function", "function": {"name": "other"}}
    found = [
        parse_tools([TOOL, other], choice)
        for choice in (None, "auto", "required", {"type": "function", "function": {"name": "clock"}})
    ]
    assert [tools and tools.must for tools in found] == [(), (), ("clock", "other"), ("clock",)]


def test_what_templates_make_of_tools() -> None:
    assert tool_template(template_of("qwen3")) == ToolTemplate(True, "text")
    assert tool_template(template_of("r1_distill_qwen")) == ToolTemplate(False, "text")
    assert tool_template(ChatTemplate(PLAIN, {})) == ToolTemplate(False, None)
    assert tool_template(ChatTemplate(OBJECTS, {})) == ToolTemplate(False, "object")


def test_a_template_that_shows_no_calls_gets_them_as_text() -> None:
    shown = shown_messages(ToolTemplate(False, None), TALK, parse_tools([TOOL], None))
    assert [message["role"] for message in shown] == ["system", "user", "assistant", "user"]
    assert shown[0]["content"].startswith("Be kind.\n\n# Tools\n")
    assert '<tools>\n{"type": "function", "function": {"name": "clock", ' in shown[0]["content"]
    assert shown[2]["content"] == '<tool_call>\n{"name": "clock", "arguments": {"zone": "CET"}}\n</tool_call>'
    assert shown[3]["content"] == "<tool_response>\nnoon\n</tool_response>"
    alone = shown_messages(ToolTemplate(False, None), [ASK], parse_tools([TOOL], None))
    assert [message["role"] for message in alone] == ["system", "user"]


def test_a_template_gets_arguments_as_it_reads_them() -> None:
    text, objects = (
        shown_messages(ToolTemplate(True, how), TALK, None)[2]["tool_calls"][0]
        for how in ("text", "object")  # type: ignore[arg-type]
    )
    assert text["function"]["arguments"] == '{"zone": "CET"}'
    assert objects["function"]["arguments"] == {"zone": "CET"}
    shown = ChatTemplate(OBJECTS, {}).render(shown_messages(ToolTemplate(False, "object"), TALK, None))
    assert 'clock{"zone": "CET"}|tool:noon|' in shown


@pytest.mark.parametrize(
    "calls",
    [
        "x",
        [1],
        [{"function": {}}],
        [{"function": {"name": "a", "arguments": "{"}}],
        [{"function": {"name": "a", "arguments": "[]"}}],
    ],
)
def test_calls_that_are_none(calls: Any) -> None:
    with pytest.raises(BadRequest, match="message 1"):
        shown_messages(ToolTemplate(True, "text"), [{"role": "assistant", "tool_calls": calls}, ASK], None)


@pytest.mark.parametrize("fixture", ["qwen3", "r1_distill_qwen"])
def test_a_talk_with_tools_renders_by_the_models_own_template(fixture: str, seed: int) -> None:
    with Engine(toy_model(seed, fixture, context=2000), cache_tokens=4096) as engine:
        someone = Assistant(engine)
        prompt = someone.prepare(TALK, tools=[TOOL]).prompt
        text = someone.model.tokenizer.decode(prompt, skip_special=False)
        assert text.count("The time.") == 1
        assert text.count('{"zone": "CET"}') == 1
        assert text.count("noon") == 1
        if fixture == "qwen3":
            assert someone.model.tokenizer.added_tokens["<tool_call>"] in prompt
        else:
            assert prompt.count(someone.model.tokenizer.added_tokens["<｜tool▁call▁begin｜>"]) == 1
        with pytest.raises(BadRequest, match="no tools"):
            someone.prepare_completion("a", tools=[TOOL])
