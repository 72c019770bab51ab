from pathlib import Path
from typing import Any

import pytest

from millet.errors import BadRequest
from millet.models.chat_template import ChatTemplate
from millet.models.tokenizer import Tokenizer
from millet.reasoning.format import think_format
from millet.reasoning.prompt import Mode, build_prompt, check_messages, parse_think
from millet.reasoning.state import Phase
from tests.reasoning.fakes import PLAIN, Pieces

FIXTURES = Path(__file__).parents[1] / "fixtures"
ASK = [{"role": "user", "content": "Hi?"}]


def prompt(folder: str, mode: Mode, messages: list[dict[str, Any]] = ASK) -> tuple[str, Phase]:
    tokenizer = Tokenizer.from_file(FIXTURES / folder / "tokenizer.json", {"bos_token": "<｜begin▁of▁sentence｜>"})
    template = ChatTemplate((FIXTURES / folder / "chat_template.jinja").read_text(), tokenizer.special_tokens)
    built = build_prompt(template, tokenizer, think_format(template, tokenizer), messages, mode)
    text = tokenizer.decode(built.token_ids, skip_special=False)
    if "<think>" not in str(messages):
        assert built.token_ids == tokenizer.encode(text)  # as if the template had written it all
    return text, built.phase


@pytest.mark.parametrize(("mode", "end", "phase"), [
    ("auto", "<think>\n", Phase.THOUGHT),
    ("on", "<think>\n", Phase.THOUGHT),
    ("off", "<think>\n\n</think>\n\n", Phase.CONTENT),
])  # fmt: skip
def test_r1(mode: Mode, end: str, phase: Phase) -> None:
    assert prompt("r1_distill_qwen", mode) == (f"<｜begin▁of▁sentence｜><｜User｜>Hi?<｜Assistant｜>{end}", phase)


@pytest.mark.parametrize(("mode", "end", "phase"), [
    ("auto", "", Phase.OPENING),
    ("on", "<think>\n", Phase.THOUGHT),
    ("off", "<think>\n\n</think>\n\n", Phase.CONTENT),
])  # fmt: skip
def test_qwen3(mode: Mode, end: str, phase: Phase) -> None:
    text = f"<|im_start|>user\nHi?<|im_end|>\n<|im_start|>assistant\n{end}"
    assert prompt("qwen3", mode) == (text, phase)


def test_r1_after_a_tool_opens_no_thought_unless_asked() -> None:
    call = {"type": "function", "function": {"name": "f", "arguments": "{}"}}
    messages = [*ASK, {"role": "assistant", "tool_calls": [call]}, {"role": "tool", "content": "7"}]
    text, phase = prompt("r1_distill_qwen", "auto", messages)
    assert text.endswith("<｜tool▁outputs▁end｜>")
    assert phase is Phase.OPENING
    text, phase = prompt("r1_distill_qwen", "on", messages)
    assert text.endswith("<｜tool▁outputs▁end｜><think>\n")
    assert phase is Phase.THOUGHT


@pytest.mark.parametrize("folder", ["qwen3", "r1_distill_qwen"])
@pytest.mark.parametrize("field", ["reasoning", "reasoning_content"])
def test_thoughts_of_earlier_turns_are_not_shown(folder: str, field: str) -> None:
    history = [*ASK, {"role": "assistant", "content": "Hello!", field: "A greeting."}, *ASK]
    assert prompt(folder, "auto", history) == prompt(folder, "auto", [*ASK, {**history[1], field: None}, *ASK])


def test_marks_that_users_write_open_nothing() -> None:
    text, phase = prompt("qwen3", "auto", [{"role": "user", "content": "<think>\n"}])
    assert phase is Phase.OPENING
    assert text == "<|im_start|>user\n<think>\n<|im_end|>\n<|im_start|>assistant\n"


def plain_prompt(mode: Mode, messages: list[dict[str, Any]]) -> tuple[str, Phase]:
    tokenizer: Any = Pieces()
    template = ChatTemplate(PLAIN, {})
    built = build_prompt(template, tokenizer, think_format(template, tokenizer), messages, mode)
    return tokenizer.decode(built.token_ids), built.phase


@pytest.mark.parametrize("mode", ["auto", "off"])
def test_a_model_without_reasoning_is_asked_as_it_is(mode: Mode) -> None:
    assert plain_prompt(mode, ASK) == ("user:Hi?|A:", Phase.CONTENT)


def test_a_model_without_reasoning_is_shown_how_to() -> None:
    text, phase = plain_prompt("on", ASK)
    assert phase is Phase.THOUGHT
    assert text.startswith("system:")
    assert "|assistant:<think>\n" in text
    assert "\n</think>\n\n" in text
    assert text.endswith("|user:Hi?|A:<think>\n")


def test_the_callers_system_message_comes_first() -> None:
    text, _ = plain_prompt("on", [{"role": "system", "content": "Be kind."}, *ASK])
    assert text.startswith("system:Be kind.\n\n")
    assert text.count("system:") == 1
    parts = [{"type": "text", "text": "Be kind."}]
    assert "Be kind." in plain_prompt("on", [{"role": "system", "content": parts}, *ASK])[0]


@pytest.mark.parametrize(("think", "parsed"), [
    ("off", ("off", 0)), ("auto", ("auto", None)), ("on", ("on", None)), (0, ("off", 0)), (256, ("on", 256)),
])  # fmt: skip
def test_think(think: Any, parsed: Any) -> None:
    assert parse_think(think) == parsed


@pytest.mark.parametrize("think", [True, False, -1, "maybe", "", 1.5, None, [], {}])
def test_bad_think(think: Any) -> None:
    with pytest.raises(BadRequest, match=r"^think is .*; it must be off, auto, on, or .*[^\n]$"):
        parse_think(think)


@pytest.mark.parametrize(("messages", "words"), [
    ([], "at least one"),
    ("hello", "must be a list"),
    (None, "must be a list"),
    ([{"content": "x"}], "message 1 has the role None; it must be one of"),
    (["x"], "message 1 has the role None"),
    ([*ASK, {"role": "asistant", "content": "x"}], "message 2 has the role 'asistant'; did you mean assistant"),
    ([*ASK, {"role": "assistant", "content": "x"}], "the last message is of role 'assistant'"),
    ([{"role": "system", "content": "x"}], "the last message is of role 'system'"),
])  # fmt: skip
def test_bad_messages(messages: Any, words: str) -> None:
    with pytest.raises(BadRequest, match=words):
        check_messages(messages)


@pytest.mark.parametrize(("message", "mode", "end", "phase", "begun"), [
    ({"content": "It is"}, "on", "<think>\n\n</think>\n\nIt is", Phase.CONTENT, False),
    ({"content": "It is"}, "auto", "<think>\n\n</think>\n\nIt is", Phase.CONTENT, False),
    ({"content": " a", "reasoning_content": "Hm."}, "auto", "<think>\nHm.\n</think>\n\n a", Phase.CONTENT, False),
    ({"content": "", "reasoning_content": "Hm"}, "auto", "<think>\nHm", Phase.THOUGHT, True),
    ({"content": "", "reasoning_content": "Hm"}, "off", "<think>\nHm\n</think>\n\n", Phase.CONTENT, False),
    ({"content": ""}, "on", "<think>\n", Phase.THOUGHT, False),
])  # fmt: skip
@pytest.mark.parametrize("folder", ["qwen3", "r1_distill_qwen"])
def test_a_prefix_is_gone_on_from(
    folder: str, message: dict[str, Any], mode: Mode, end: str, phase: Phase, begun: bool
) -> None:
    tokenizer = Tokenizer.from_file(FIXTURES / folder / "tokenizer.json", {"bos_token": "<｜begin▁of▁sentence｜>"})
    template = ChatTemplate((FIXTURES / folder / "chat_template.jinja").read_text(), tokenizer.special_tokens)
    messages = [*ASK, {"role": "assistant", "prefix": True, **message}]
    check_messages(messages)
    built = build_prompt(template, tokenizer, think_format(template, tokenizer), messages, mode)
    assert tokenizer.decode(built.token_ids, skip_special=False).endswith(f"{end}")
    assert tokenizer.decode(built.token_ids, skip_special=False).count("Hi?") == 1
    assert (built.phase, built.begun) == (phase, begun)


def test_what_a_prefix_spells_is_text() -> None:
    tokenizer = Tokenizer.from_file(FIXTURES / "qwen3" / "tokenizer.json", {})
    template = ChatTemplate((FIXTURES / "qwen3" / "chat_template.jinja").read_text(), {})
    messages = [*ASK, {"role": "assistant", "prefix": True, "content": "a<|im_end|>"}]
    ids = build_prompt(template, tokenizer, think_format(template, tokenizer), messages, "off").token_ids
    assert ids.count(tokenizer.added_tokens["<|im_end|>"]) == 1  # the question's
    assert tokenizer.decode(ids, skip_special=False).endswith("a<|im_end|>")


@pytest.mark.parametrize(("messages", "words"), [
    ([*ASK, {"role": "assistant", "content": "a"}], "prefix"),
    ([*ASK, {"role": "assistant", "content": "a", "prefix": False}], "prefix"),
    ([*ASK, {"role": "user", "content": "a"}, {"role": "assistant", "content": "a", "prefix": "yes"}], "prefix"),
    ([{"role": "assistant", "content": "a", "prefix": True}], "only a beginning"),
    ([{"role": "system", "content": "a"}, {"role": "assistant", "content": "a", "prefix": True}], "role 'system'"),
])  # fmt: skip
def test_prefixes_that_are_none(messages: list[dict[str, Any]], words: str) -> None:
    with pytest.raises(BadRequest, match=words):
        check_messages(messages)
