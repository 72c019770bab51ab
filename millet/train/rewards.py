"""What a reply is worth beside being right: the rules of DeepSeek-R1 (2501.12948), which no model has to judge."""

from __future__ import annotations

import re
from typing import Literal

from millet.reasoning.reply import Reply

Language = Literal["en", "zh"]

_WORDS = re.compile(r"[\u4e00-\u9fff\u3400-\u4dbf]|[^\W\d_\u4e00-\u9fff\u3400-\u4dbf]+")  # a Han character is a word
_OF = {"en": re.compile(r"[A-Za-z'’]+"), "zh": re.compile(r"[\u4e00-\u9fff\u3400-\u4dbf]")}


def format_reward(reply: Reply) -> float:
    """1 for a thought that the model closed itself and an answer behind it that it ended, else 0."""
    closed = reply.thought_ended == "model" and reply.finish_reason == "stop"
    return float(closed and bool(reply.reasoning.strip()) and bool(reply.content.strip()))


def language_consistency(text: str, language: Language) -> float:
    """Share of words that are of this language, 0 to 1; 1 for a text without any. Figures and signs are no words."""
    words = _WORDS.findall(text)
    if not words:
        return 1.0
    return sum(_OF[language].fullmatch(word) is not None for word in words) / len(words)
