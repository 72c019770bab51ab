"""Making a model think that was never taught to: by instruction and example, in the prompt.

The examples are turns of the conversation in the model's own chat format, so their part of the prompt is computed once
and then found in the prefix cache. The thought is opened as text at the end of the prompt; the state machine does the
rest. A stop-gap until a model has learned to think: it gives the shape of reasoning, not much of its power.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from millet.reasoning.format import CLOSE, OPEN

INSTRUCTION = f"First think step by step inside {OPEN} and {CLOSE}. Then write the answer."

# (question, thought, answer): a greeting, a sum, a fact. Of a dozen sets tried on 24 common questions, this is the one
# with which SmolLM2-135M most reliably closed its thought and ended its answer (22 to 23 of 24).
EXAMPLES = (
    ("Good morning!", "This is a greeting, so I greet back.", "Good morning! What can I do for you?"),
    ("What is 12 + 30?", "I add 12 and 30. 12 + 30 = 42.", "The answer is 42."),
    (
        "Who wrote Hamlet?",
        "Hamlet is a famous play. It was written by William Shakespeare.",
        "Hamlet was written by William Shakespeare.",
    ),
)


def with_protocol(messages: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The messages with the instruction in the system message and the examples after it."""
    own = messages[0].get("content") if messages and messages[0].get("role") == "system" else None
    rest = messages[1:] if own is not None else messages
    return [{"role": "system", "content": _joined(own)}, *_examples(), *rest]


def _joined(own: Any) -> Any:
    if not own:
        return INSTRUCTION
    return f"{own}\n\n{INSTRUCTION}" if isinstance(own, str) else [*own, {"type": "text", "text": INSTRUCTION}]


def _examples() -> list[dict[str, str]]:
    turns = []
    for question, thought, answer in EXAMPLES:
        turns.append({"role": "user", "content": question})
        turns.append({"role": "assistant", "content": f"{OPEN}\n{thought}\n{CLOSE}\n\n{answer}"})
    return turns
