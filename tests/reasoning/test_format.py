from pathlib import Path

import pytest

from millet.models.chat_template import ChatTemplate
from millet.models.tokenizer import Tokenizer
from millet.reasoning.format import think_format
from tests.reasoning.fakes import CLOSE_ID, OPEN_ID, PLAIN, PREOPENED, SELF_OPENING, SWITCHED, Pieces

FIXTURES = Path(__file__).parents[1] / "fixtures"


@pytest.mark.parametrize("marks", [True, False])
@pytest.mark.parametrize(("source", "own", "switch"), [
    (PLAIN, False, None),
    (PREOPENED, True, None),
    (SELF_OPENING, True, None),
    (SWITCHED, True, "enable_thinking"),
    (SWITCHED.replace("enable_thinking", "thinking"), True, "thinking"),
])  # fmt: skip
def test_families(source: str, own: bool, switch: str | None, marks: bool) -> None:
    tokenizer = Pieces(marks)
    think = think_format(ChatTemplate(source, {}), tokenizer)  # type: ignore[arg-type]
    assert (think.own, think.switch) == (own or marks, switch)
    assert (think.open_id, think.close_id) == ((OPEN_ID, CLOSE_ID) if marks else (None, None))
    assert think.spelled is not marks
    assert tokenizer.decode(think.opening) == "<think>\n"
    assert tokenizer.decode(think.closing) == "\n</think>\n\n"


def test_one_mark_alone_is_no_pair_of_tokens() -> None:
    tokenizer = Pieces(marks=True)
    del tokenizer.added_tokens["</think>"]
    assert think_format(ChatTemplate(PLAIN, {}), tokenizer).spelled  # type: ignore[arg-type]


@pytest.mark.parametrize(("folder", "switch"), [("qwen3", "enable_thinking"), ("r1_distill_qwen", None)])
def test_models_formats(folder: str, switch: str | None) -> None:
    tokenizer = Tokenizer.from_file(FIXTURES / folder / "tokenizer.json", {})
    template = ChatTemplate((FIXTURES / folder / "chat_template.jinja").read_text(), {"bos_token": ""})
    think = think_format(template, tokenizer)
    assert (think.own, think.switch, think.spelled) == (True, switch, False)
    assert think.closing == tuple(tokenizer.encode("\n</think>\n\n"))
    assert think.opening == tuple(tokenizer.encode("<think>\n"))


@pytest.mark.parametrize("marks", [True, False])
def test_tail(marks: bool) -> None:
    tokenizer = Pieces(marks)
    think = think_format(ChatTemplate(PLAIN, {}), tokenizer)  # type: ignore[arg-type]

    def tail(text: str) -> str:
        return think.tail(tokenizer, tokenizer.encode(text))  # type: ignore[arg-type]

    assert tail("U:?|A:<think>\n") == tail("<think>") == "open"
    assert tail("A:<think>\n\n</think>\n\n") == "closed"
    assert tail("A:") == tail("<think> A:") == tail("") == tail("\n") == "bare"


def test_marks_in_plain_letters_are_no_tail_where_they_are_tokens() -> None:
    tokenizer = Pieces(marks=True)
    think = think_format(ChatTemplate(PREOPENED, {}), tokenizer)  # type: ignore[arg-type]
    assert think.tail(tokenizer, tokenizer.encode_plain("<think>\n")) == "bare"  # type: ignore[arg-type]
