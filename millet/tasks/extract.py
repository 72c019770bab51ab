r"""What a reply answers: one text, whatever the reply's form. All built-in graders read replies through this.

Of the content, never of the thought, this is taken, in order:

1. what stands in the last `\boxed{...}`, the last `<answer>...</answer>`, or behind the last `####`;
2. what follows the last "answer is" or "answer:";
3. the last line, or, where the right answer has several lines, the last fenced block or else the whole content.

Dress is taken off: Markdown, `$`, quotes, a final full stop, but none that the right answer wears too. Where the right
answer is a number, the number is taken out of the words: the part behind the last "=", there the last number (the first
where the answer was announced). A number that stands in a row of others, with no word between them but "and" or "or",
is not an answer: who lists candidates has not chosen one. So there is always one answer or none, found without looking
whether it is right.
"""

from __future__ import annotations

import re
from fractions import Fraction

LONGEST = 100_000  # characters; nothing longer is an answer

_NUMBER = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?(?:[eE][-+]?\d+)?|\.\d+"
_SIGNED = re.compile(rf"(?:(?<![\w.)\]])-)?(?:{_NUMBER})(?:\s?/\s?\d+(?!\d|\.\d))?")
_BOXED = re.compile(r"\\boxed\s*\{")
_HASHES = re.compile(r"^[ \t]*####[ \t]*(.+)$", re.MULTILINE)
_SAID = re.compile(r"\banswer\b[ \t*_]{0,4}(?:is\b|[:=])[ \t:*]{0,4}", re.IGNORECASE)
_FENCED = re.compile(r"^[ \t]*```[^\n]*\n(.*?)^[ \t]*```", re.DOTALL | re.MULTILINE)
_FRACTION = re.compile(r"\\[dt]?frac\{([^{}]*)\}\{([^{}]*)\}")
_TEXT = re.compile(r"\\(?:text|mathrm|mathbf|textbf)\{([^{}]*)\}|\\[()\[\],;! ]")
_SENTENCE_END = re.compile(r"(?<=[^\d\s])[.;]\s|\.\s")
_DRESS = "*`$\"'"
_LAYERS = 10  # of dress that are taken off


def extract_answer(content: str, like: str = "", prompt: str = "") -> str:
    """The answer, "" where there is none.

    like: the right answer, of which only the form is looked at. prompt: what was asked; where the reply repeats it,
    only what follows counts.
    """
    text = _outside_thought(content)
    if prompt.strip():
        text = text.rpartition(prompt.strip())[2]
    if len(text) > LONGEST:
        return ""
    marked, said = _marked(text), None
    if marked is None:
        said = _said(text, like)
    if is_number(like):
        return _number(text, marked, said)
    if marked is not None:
        return _undressed(marked, like)
    if said is not None:
        return _undressed(said, like)
    return _undressed(_block(text) if "\n" in like.strip() else _last_line(text), like)


def is_number(text: str) -> bool:
    return _SIGNED.fullmatch(text.strip()) is not None


def to_number(text: str) -> Fraction | None:
    """Its value, None where the text is not one number."""
    if not is_number(text) or len(text) > 1000:
        return None
    try:
        return Fraction(re.sub(r"[,\s]", "", text))
    except (ValueError, ZeroDivisionError):
        return None


def last_block(text: str) -> str | None:
    """What stands in the last pair of code fences."""
    blocks = _FENCED.findall(text)
    return blocks[-1] if blocks else None


def _outside_thought(content: str) -> str:
    """Without what a thought's stray tags surround: a thought that never closed has no answer behind it."""
    text = content.rpartition("</think>")[2]
    return text.partition("<think>")[0].strip("\n").rstrip()


def _marked(text: str) -> str | None:
    boxed = _last_boxed(text)
    if boxed is not None:
        return boxed
    before, closed, _ = text.rpartition("</answer>")
    opened, answer = before.rpartition("<answer>")[1:]
    if closed and opened:
        return answer
    hashed = _HASHES.findall(text)
    return str(hashed[-1]) if hashed else None


def _last_boxed(text: str) -> str | None:
    """What stands in the last complete box, with braces inside it balanced."""
    starts = [found.end() for found in _BOXED.finditer(text)]
    for start in starts[:-4:-1]:  # a reply may open thousands that it never closes
        depth = 1
        for end in range(start, len(text)):
            depth += (text[end] == "{") - (text[end] == "}")
            if depth == 0:
                return text[start:end]
    return None


def _said(text: str, like: str) -> str | None:
    announced = list(_SAID.finditer(text))
    if not announced:
        return None
    rest = text[announced[-1].end() :].strip("\n")
    if "\n" in like.strip():
        return _block(rest)
    line = next((line for line in rest.splitlines() if line.strip()), "")
    return line if _SENTENCE_END.search(like) else _SENTENCE_END.split(line, maxsplit=1)[0]


def _block(text: str) -> str:
    return last_block(text) or text


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip(" \t`")]
    return lines[-1] if lines else ""


def _undressed(text: str, like: str) -> str:
    text = text.strip()
    if "\\" not in like:
        text = _TEXT.sub(lambda found: found[1] or "", text).strip()
    like = like.strip()
    for _ in range(_LAYERS):
        before = text
        for mark in _DRESS:
            text = text if like.startswith(mark) else text.removeprefix(mark)
            text = text if like.endswith(mark) else text.removesuffix(mark)
        text = text if like.endswith(".") else text.removesuffix(".")
        text = text.strip()
        if text == before:
            break
    return text


def _number(text: str, marked: str | None, said: str | None) -> str:
    if marked is None and said is None and _is_bare_list(text):
        return ""
    line = _last_line(text) if marked is None and said is None else (marked or said or "")
    line = _TEXT.sub(lambda found: found[1] or "", _FRACTION.sub(r"\1/\2", line)).replace("−", "-")
    _, equals, after = line.rpartition("=")
    place = 0 if said is not None and not equals else -1
    found = list(_SIGNED.finditer(after))
    if not found:
        return ""
    if len(found) > 1:
        gap = after[found[0].end() : found[1].start()] if place == 0 else after[found[-2].end() : found[-1].start()]
        if not re.search(r"[^\W\d_]", re.sub(r"\b(?:and|or)\b", "", gap)):
            return ""
    return re.sub(r"[,\s]", "", found[place][0])


def _is_bare_list(text: str) -> bool:
    """Whether the last two lines are different numbers, and nothing else."""
    lines = [line for line in text.splitlines() if line.strip()][-2:]
    values = [to_number(_undressed(line, "")) for line in lines]
    return len(values) == 2 and None not in values and values[0] != values[1]
