from __future__ import annotations

from dataclasses import replace

import pytest

from millet.reasoning.reply import Reply, Usage
from millet.train.rewards import Language, format_reward, language_consistency

GOOD = Reply("Let me see.", "It is 42.", "stop", Usage(), thought_ended="model")


@pytest.mark.parametrize(("changes", "reward"), [
    ({}, 1.0),
    ({"finish_reason": "length"}, 0.0),
    ({"thought_ended": None}, 0.0),
    ({"thought_ended": "budget"}, 0.0),
    ({"content": "  "}, 0.0),
    ({"reasoning": ""}, 0.0),
])  # fmt: skip
def test_format(changes: dict[str, str], reward: float) -> None:
    assert format_reward(replace(GOOD, **changes)) == reward  # type: ignore[arg-type]


@pytest.mark.parametrize(("text", "language", "share"), [
    ("The sum of 15 and 8 is 23.", "en", 1.0),
    ("十五加八等于二十三", "zh", 1.0),
    ("十五 plus 八", "zh", 0.75),
    ("so 因此 x", "en", 0.5),
    ("Это 23", "en", 0.0),
    ("23 = 15 + 8", "en", 1.0),
])  # fmt: skip
def test_language(text: str, language: Language, share: float) -> None:
    assert language_consistency(text, language) == share
