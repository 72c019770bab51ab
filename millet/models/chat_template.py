"""Chat templates: messages to the text, and the token ids, that a model was trained to read.

A template is a Jinja program that comes with the model (as `chat_template.jinja`, in `tokenizer_config.json`, or in a
GGUF's metadata). It is untrusted code, so it runs in Jinja's sandbox, on plain data, with the helpers that transformers
gives its templates.

Ids equal those of transformers' `apply_chat_template`, with one difference: a string in a message that spells a control
token, such as "<|im_end|>" in a question, is read as the text it is and cannot end a turn.
"""

import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cached_property, lru_cache
from typing import Any

from jinja2 import TemplateError, TemplateSyntaxError, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from millet.errors import BadRequest, UnsupportedModel
from millet.models.tokenizer import Tokenizer, valid

REASONING_FIELDS = ("reasoning_content", "thinking", "reasoning")  # what templates and APIs call a message's thought
MARK = "\ud800"  # goes inside what must not become a token; `valid` takes it out of what messages bring
DEEPEST = 64  # levels of nesting in tools and tool calls


class ChatTemplate:
    """A model's template. `source` is its Jinja text; it is compiled once.

    special_tokens: the variables `bos_token`, `eos_token`, ... (`Tokenizer.special_tokens`).
    Raises UnsupportedModel when the source is not valid Jinja.
    """

    def __init__(self, source: str, special_tokens: Mapping[str, str]) -> None:
        self.source = source
        self.special_tokens = dict(special_tokens)
        try:
            self._template = ENVIRONMENT.from_string(source)
        except TemplateSyntaxError as error:
            raise UnsupportedModel(
                f"the model's chat template is not valid Jinja (line {error.lineno}: {_one_line(error.message)}); "
                "get the model from another source, or mend its chat_template.jinja"
            ) from error
        # DeepSeek's templates ask whether `content` is none; for others a message without content lacks the key.
        self._asks_for_none = re.search(r"content['\"\]]*\s+is\s+(not\s+)?none", source) is not None

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool = True,
        tools: Sequence[Mapping[str, Any]] | None = None,
        **variables: Any,
    ) -> str:
        """The prompt as text.

        messages: {"role": ..., "content": text or a list of {"type": "text", "text": ...}}, and what else the template
            reads ("reasoning_content", "tool_calls", ...). variables: the template's own switches ("enable_thinking").
        Raises BadRequest for malformed messages, and for those that the template refuses or cannot render.
        """
        return self._render(self._checked(messages), _checked_tools(tools), add_generation_prompt, _plain(variables))

    def _render(self, messages: list[Any], tools: list[Any] | None, prompt: bool, variables: dict[str, Any]) -> str:
        defaults = {**self.special_tokens, "documents": None}
        given = {"messages": messages, "tools": tools, "add_generation_prompt": prompt}
        try:
            return self._template.render(defaults | variables | given)
        except _Refused as error:
            raise BadRequest(_one_line(error)) from error
        except SecurityError as error:
            raise UnsupportedModel(
                f"the model's chat template does what templates may not ({_one_line(error)}); get another source"
            ) from error
        except Exception as error:  # a template is a program, and can fail in every way a program can
            raise BadRequest(
                f"the model's chat template cannot render these messages ({_one_line(error)}); check roles and contents"
            ) from error

    def _checked(self, messages: Any) -> list[dict[str, Any]]:
        if not isinstance(messages, Sequence) or isinstance(messages, str) or not messages:
            raise BadRequest('messages must be a list of at least one {"role": ..., "content": ...}')
        return [self._message(f"message {number}", message) for number, message in enumerate(messages, 1)]

    def _message(self, where: str, message: Any) -> dict[str, Any]:
        if not isinstance(message, Mapping):
            raise BadRequest(f'{where} is a {type(message).__name__}; it must be {{"role": ..., "content": ...}}')
        fields = {key: value for key, value in message.items() if value is not None}
        role = fields.get("role")
        if not isinstance(role, str) or not role:
            raise BadRequest(f'{where} has no role; give it one, such as "user"')
        thought = next((fields[name] for name in REASONING_FIELDS if name in fields), None)
        if thought is not None:
            fields = {"thinking": thought, **fields, "reasoning_content": thought}
        if "content" in fields:
            fields["content"] = self._content(where, fields["content"])
        elif thought is None and not fields.get("tool_calls"):
            raise BadRequest(f"{where}, of role {role!r}, has no content; give it some text")
        elif self._asks_for_none:
            fields["content"] = None
        return _plain(fields, where)

    def _content(self, where: str, content: Any) -> str | list[Any]:
        if isinstance(content, str):
            return content
        if not isinstance(content, Sequence):
            raise BadRequest(f"{where} has content of type {type(content).__name__}; it must be text or parts")
        texts = [_text_of(where, part) for part in content]
        return list(content) if self._reads_parts else "\n".join(texts)

    @cached_property
    def _reads_parts(self) -> bool:
        """Whether the template itself takes content as a list of parts, tried out on one."""
        parts = [{"type": "text", "text": "millet"}]
        try:
            text = self._render([{"role": "user", "content": parts}], None, False, {})
        except (BadRequest, UnsupportedModel):
            return False
        return "millet" in text and not re.search(r"""text['"]: *['"]millet""", text)


def encode_chat(
    template: ChatTemplate,
    tokenizer: Tokenizer,
    messages: Sequence[Mapping[str, Any]],
    *,
    add_generation_prompt: bool = True,
    tools: Sequence[Mapping[str, Any]] | None = None,
    **variables: Any,
) -> list[int]:
    """The prompt as token ids; arguments and errors as in `ChatTemplate.render`.

    The template alone decides on BOS. Control tokens come only from the template: those that messages, tools or
    variables spell are read as plain text. What the assistant said may hold `<think>` and `<tool_call>`, as templates
    look for them there; in everyone else's text these too are plain, if the template gives them a meaning.
    """
    control = [text for text, token_id in tokenizer.added_tokens.items() if token_id in tokenizer.special_ids]
    written = [text for text in tokenizer.added_tokens if text in template.source and not text.isspace()]
    of_assistant, of_others = _any_of(*control), _any_of(*control, *written)
    marked = [
        _mark(message, of_assistant if message["role"] == "assistant" else of_others)
        for message in template._checked(messages)
    ]
    marked_tools, marked_variables = _mark([_checked_tools(tools), _plain(variables)], of_others)
    return _encode_marked(tokenizer, template._render(marked, marked_tools, add_generation_prompt, marked_variables))


def _encode_marked(tokenizer: Tokenizer, text: str) -> list[int]:
    """Text between two of the template's tokens that has a mark is plain; all other text is encoded as it stands."""
    if MARK not in text:
        return tokenizer.encode(text)
    ids: list[int] = []
    waiting, done = 0, 0  # starts of the text not encoded yet, and of the text after the last token
    spans = [found.span() for found in _any_of(*tokenizer.added_tokens).finditer(text)]
    for start, end in [*spans, (len(text), len(text))]:
        if MARK in text[done:start]:
            ids += tokenizer.encode(text[waiting:done])
            ids += tokenizer.encode_plain(text[done:start].replace(MARK, ""), at_start=not ids)
            waiting = start
        done = end
    return ids + tokenizer.encode(text[waiting:])


@lru_cache(maxsize=64)
def _any_of(*tokens: str) -> re.Pattern[str]:
    """Matches any of the tokens, the longest first, as the tokenizer does."""
    longest_first = sorted(set(tokens), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)) or "(?!)")  # (?!) matches nothing


def _mark(value: Any, tokens: re.Pattern[str]) -> Any:
    """A copy of plain data in which no string spells one of `tokens`: a mark follows their first character."""
    if isinstance(value, str):
        return tokens.sub(lambda found: found[0][0] + MARK + found[0][1:], valid(value))
    if isinstance(value, dict):
        return {_mark(key, tokens): _mark(item, tokens) for key, item in value.items()}
    if isinstance(value, list):
        return [_mark(item, tokens) for item in value]
    return value


def _checked_tools(tools: Any) -> list[Any] | None:
    if tools is None:
        return None
    if not isinstance(tools, Sequence) or isinstance(tools, str) or not all(isinstance(t, Mapping) for t in tools):
        raise BadRequest("tools must be a list of JSON objects, each describing one function")
    return _plain(list(tools), "tools")


def _text_of(where: str, part: Any) -> str:
    kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
    if kind != "text" or not isinstance(part.get("text"), str):
        raise BadRequest(f'{where} has a content part of type {kind!r}; Millet reads {{"type": "text", "text": ...}}')
    return part["text"]


def _plain(value: Any, where: str = "the template's variables", depth: int = 0) -> Any:
    """A copy out of JSON's own types, so that a template meets no object with methods."""
    if depth > DEEPEST:
        raise BadRequest(f"{where} nest deeper than {DEEPEST} lists and objects; send flatter data")
    if value is None or type(value) in (str, int, float, bool):
        return value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, Mapping):
        return {_plain(key, where): _plain(item, where, depth + 1) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item, where, depth + 1) for item in value]
    raise BadRequest(f"{where} hold a {type(value).__name__}; use text, numbers, true or false, lists and objects")


def _one_line(error: object) -> str:
    return " ".join(str(error).split())


class _Refused(TemplateError):
    """The template's own `raise_exception`."""


class _Generation(Extension):
    """`{% generation %}` marks what the assistant wrote, for training masks; here its body is rendered as it is."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)


def _raise_exception(message: str) -> None:
    raise _Refused(message)


def _strftime_now(layout: str) -> str:
    return datetime.now().strftime(layout)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # Jinja's own escapes < > & for HTML, which models have not seen.
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment


ENVIRONMENT = _environment()
