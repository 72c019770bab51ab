"""`millet bench speculation`: what guessing ahead brings where a reply repeats its prompt, and costs where it does not.

One request at a time. "Repeating" prompts are a text twice and its beginning a third time, which any language model
goes on copying, greedily; "free" ones are the fidelity prompts, continued at temperature 1 with fixed seeds (greedily,
a small model soon repeats itself, and guessing pays there too). Turns with guessing and without alternate.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import Any

from millet.bench.fidelity import texts
from millet.engine.engine import Engine
from millet.engine.sampling import Sampling
from millet.models.load import load

NEW_TOKENS = 96
PROMPTS = 6  # of each kind
SHOWN = 12  # tokens of the third copy


def bench_speculation(model: str, *, rounds: int = 3, say: Callable[[str], None] = lambda text: None) -> dict[str, Any]:
    """Tokens/s with and without, their ratio, and drafted tokens accepted; medians of totals over all prompts."""
    say("loading")
    loaded = load(model)
    encode = loaded.tokenizer.encode
    copied = [encode(text) for text in texts()[:PROMPTS]]
    kinds = {
        "repeating": [ids + ids + ids[:SHOWN] for ids in copied],
        "free": [encode(text) for text in texts()[-PROMPTS:]],
    }
    report: dict[str, Any] = {"model": model, "new_tokens": NEW_TOKENS, "rounds": rounds}
    for kind, prompts in kinds.items():
        seconds: dict[str, list[float]] = {"off": [], "ngram": []}
        drafted = accepted = 0
        for number in range(rounds):
            for how in seconds:
                say(f"round {number + 1} of {rounds}: {kind}, {how}")
                taken = 0.0
                for prompt in prompts:
                    # A new engine each: what it learned about whether guessing pays must not carry over.
                    with Engine(loaded, cache_tokens=2048, speculation="ngram" if how == "ngram" else "off") as engine:
                        taken += _decode_seconds(engine, prompt, 0.0 if kind == "repeating" else 1.0)
                        stats = engine.stats()
                        drafted, accepted = drafted + stats["drafted"], accepted + stats["accepted"]
                seconds[how].append(taken)
        with_guesses, without = median(seconds["ngram"]), median(seconds["off"])
        tokens = len(prompts) * (NEW_TOKENS - 1)
        report[kind] = {
            "tokens_per_second": {"off": tokens / without, "ngram": tokens / with_guesses},
            "ratio": without / with_guesses,
            "accepted": accepted / drafted if drafted else 0.0,
        }
    return report


def _decode_seconds(engine: Engine, prompt: list[int], temperature: float) -> float:
    """From the first token to the last."""
    sampling = Sampling(temperature=temperature, seed=0, max_tokens=NEW_TOKENS, ignore_eos=True)
    generation = engine.submit(prompt, sampling)
    chunks = iter(generation)
    next(chunks)
    started = time.perf_counter()
    for _ in chunks:
        pass
    return time.perf_counter() - started
