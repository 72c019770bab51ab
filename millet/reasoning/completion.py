"""Plain completion: text that goes on from a text, or that fills the gap between two, without chat or thought."""

from __future__ import annotations

from millet.errors import BadRequest
from millet.models.tokenizer import Tokenizer

# (before, gap, end): before the text, between it and what follows the gap, and where the middle is to be written.
FILL_IN = (
    ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),  # Qwen
    ("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),  # StarCoder
    ("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),  # DeepSeek
)


def completion_prompt(tokenizer: Tokenizer, prompt: str, suffix: str | None) -> list[int]:
    """The ids that a completion starts from. What the texts spell of control tokens is plain text.

    Raises BadRequest where there is a suffix and the model has no tokens for filling in.
    """
    if not isinstance(prompt, str):
        raise BadRequest(f"prompt is a {type(prompt).__name__}; it must be text")
    bos = [tokenizer.added_tokens[tokenizer.bos_token]] if tokenizer.adds_bos and tokenizer.bos_token else []
    if suffix is None:
        if not prompt and not bos:
            raise BadRequest("the prompt is empty; give some text to go on from")
        return bos + tokenizer.encode_plain(prompt)
    if not isinstance(suffix, str):
        raise BadRequest(f"suffix is a {type(suffix).__name__}; it must be text")
    before, gap, end = _fill_in_ids(tokenizer)
    inner = [tokenizer.encode_plain(text, at_start=False) for text in (prompt, suffix)]
    return [*bos, before, *inner[0], gap, *inner[1], end]


def _fill_in_ids(tokenizer: Tokenizer) -> tuple[int, ...]:
    for marks in FILL_IN:
        if all(mark in tokenizer.added_tokens for mark in marks):
            return tuple(tokenizer.added_tokens[mark] for mark in marks)
    raise BadRequest("this model has no tokens for filling in between two texts; leave out suffix, or use a code model")
