"""How a model writes a call of a tool, and how such a call is read.

    Hermes, Qwen    <tool_call>{"name": ..., "arguments": {...}}</tool_call>
    DeepSeek        <｜tool▁call▁begin｜>function<｜tool▁sep｜>name, arguments in a ```json fence, <｜tool▁call▁end｜>;
                    since V3.1 name<｜tool▁sep｜>{...}. Around all calls stand <｜tool▁calls▁begin｜> and its end
    Llama 3         {"name": ..., "parameters": {...}} as the whole content

Where the vocabulary has a mark as a token, only this token counts. The state machine reads text, so such a token goes
into it as the mark's name behind a character that no text can have.
"""

from __future__ import annotations

import json
import secrets
import sys
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from millet.models.chat_template import ChatTemplate
from millet.models.tokenizer import Tokenizer, valid
from millet.reasoning.reply import ToolCall

TOKEN = "\ud800"  # half of a UTF-16 pair, which decoding never yields
HERMES = ("<tool_call>", "</tool_call>")
CALL, END, SEP = "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>", "<｜tool▁sep｜>"
CALLS, CALLS_END = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"
DEEPSEEK = (CALLS, CALL, SEP, END, CALLS_END)
FENCE = "```"


@dataclass(frozen=True, slots=True)
class CallFormat:
    """tokens: what the marks that are tokens become in the text, by id. pairs: what begins a call, and what ends it.
    around: marks that stand around calls and mean nothing by themselves. bare: a call may be the whole content.

    opening: the ids with which a call begins that has to be made. sep: DeepSeek's mark in the midst of a call.
    fenced: the arguments behind it stand in a fence."""

    tokens: dict[int, str]
    pairs: dict[str, str]
    around: tuple[str, ...]
    bare: bool
    opening: tuple[int, ...]
    sep: int | None
    fenced: bool

    @property
    def openers(self) -> tuple[int, ...]:
        """Tokens that a reply of nothing but calls may begin with."""
        return tuple(i for i, text in self.tokens.items() if text in self.pairs or text in self.around[:1])

    def pattern(self, name: str) -> tuple[str, str]:
        """What stands before and after the arguments of a call that has to be made, behind its opening, in Lark."""
        if self.bare:
            return _quoted(f'{{"name": "{name}", "parameters": '), _quoted("}")
        if self.sep is None:
            return _quoted(f'{{"name": "{name}", "arguments": '), _quoted("}")
        if self.fenced:
            return f'"function" <[{self.sep}]> ' + _quoted(name + "\n```json\n"), _quoted("\n```")
        return f'"{name}" <[{self.sep}]>', ""


def call_format(template: ChatTemplate, tokenizer: Tokenizer) -> CallFormat:
    """Of the model that has this template and this tokenizer."""
    known = [text for text in (*HERMES, *DEEPSEEK) if text in tokenizer.added_tokens]
    tokens = {tokenizer.added_tokens[text]: TOKEN + text for text in known}
    hermes = [TOKEN + text if text in known else text for text in HERMES]
    pairs = {hermes[0]: hermes[1]}
    deepseek = all(text in known for text in DEEPSEEK)
    if deepseek:
        pairs[TOKEN + CALL] = TOKEN + END
    bare = "<|python_tag|>" in template.source or "Environment: ipython" in template.source
    if deepseek:
        opening = [tokenizer.added_tokens[CALLS], tokenizer.added_tokens[CALL]]
    elif HERMES[0] in known:
        opening = [tokenizer.added_tokens[HERMES[0]], *tokenizer.encode_plain("\n", at_start=False)]
    else:
        opening = [] if bare else tokenizer.encode_plain(HERMES[0] + "\n", at_start=False)
    return CallFormat(
        tokens=tokens,
        pairs=pairs,
        around=(TOKEN + CALLS, TOKEN + CALLS_END) if deepseek else (),
        bare=bare and not deepseek,
        opening=tuple(opening),
        sep=tokenizer.added_tokens[SEP] if deepseek else None,
        fenced="```json" in template.source,
    )


def read_call(text: str, names: Collection[str]) -> ToolCall | None:
    """The call that stands between the marks; None where it is not well-formed, or calls what is not there."""
    function, sep, rest = text.partition(TOKEN + SEP)
    if sep and function.strip() == "function" and "\n" in rest:
        function, _, rest = rest.partition("\n")
    if sep:
        name: Any = function.strip()
        arguments = _json(_unfenced(rest))
    else:
        call = _json(text)
        if not isinstance(call, dict):
            return None
        name, arguments = call.get("name"), call.get("arguments", call.get("parameters", {}))
        if isinstance(arguments, str):
            arguments = _json(arguments)
    if not isinstance(name, str) or name not in names or not isinstance(arguments, dict):
        return None
    # A JSON string may spell half a UTF-16 pair, which no encoding of the reply could carry.
    return ToolCall(f"call_{secrets.token_hex(12)}", name, valid(json.dumps(arguments, ensure_ascii=False)))


def without_marks(text: str) -> str:
    """Marks that belong to no call, as the text they are then."""
    return text.replace(TOKEN, "")


def _unfenced(text: str) -> str:
    """What stands in a ```json fence, or all of it. No regular expression: a model may write blanks without end."""
    text = text.strip()
    if len(text) < 2 * len(FENCE) or not (text.startswith(FENCE) and text.endswith(FENCE)):
        return text
    return text.removeprefix(FENCE).removesuffix(FENCE).removeprefix("json").strip()


def _json(text: str) -> Any:
    try:
        return json.loads(text, parse_constant=_refuse, parse_float=_float)
    except (ValueError, RecursionError):
        return None


def _quoted(text: str) -> str:
    return json.dumps(text)


def _float(text: str) -> float:
    return max(-sys.float_info.max, min(sys.float_info.max, float(text)))  # infinity would be no JSON


def _refuse(name: str) -> None:
    raise ValueError(name)
