"""The benchmark of reinforcement learning: its questions and arithmetic, and the contenders on a toy."""

from pathlib import Path
from typing import Any

import pytest

from millet.bench.grpo import bench_grpo, useful_flops
from millet.bench.stories import Stories, lateness
from millet.errors import BadRequest
from millet.models.config import ModelConfig
from millet.tasks.draw import draw
from tests.models.files import toy, write_directory


def test_answers_of_the_stories_are_right() -> None:
    for index in range(50):
        problem = draw(Stories(), "train", 0, index)
        boxes, each, given, price = (int(word) for word in problem.prompt.split() if word.isdecimal())
        assert int(problem.answer) == (boxes * each - given) * price


def test_the_reward_is_a_share() -> None:
    assert lateness("abZ") == (1 + 2 + 26) / 31 / 3
    assert lateness("") == 0


def test_useful_arithmetic_by_hand() -> None:
    settings = {"model_type": "llama", "vocab_size": 10, "hidden_size": 4, "intermediate_size": 6}
    settings |= {"num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 8}
    config = ModelConfig.from_hf(settings | {"rms_norm_eps": 1e-5, "tie_word_embeddings": True})
    inside = 4 * 4 * 4 + 3 * 4 * 6 + 3 * 4  # attention, feed-forward, norms
    assert useful_flops(config, 5, 12, lora=False) == 8 * (inside * 17 + 40 * 12)
    assert useful_flops(config, 5, 12, lora=True) == 6 * (inside * 17 + 40 * 12)


def test_the_whole_of_it(tmp_path: Path, seed: int) -> None:
    peers = ["trl"]
    directory = write_directory(toy("llama-tied", seed, max_position_embeddings=1024), tmp_path / "model")
    size: Any = {"questions": 2, "replies": 3, "max_tokens": 8, "sampler": "fp32"}
    report = bench_grpo(str(directory), peers=peers, rounds=1, threads=1, **size)
    for kind in ("full", "lora"):
        found = report[kind]
        assert found["of_the_roof"] > 0
        assert found["millet"]["mismatch"][0] < 1e-4
        for name in ("millet", *peers):
            assert min(found[name]["parts"].values()) > 0
            assert sum(found[name]["parts"].values()) <= found[name]["seconds"]
            assert found[name]["prompt_tokens"] == found["millet"]["prompt_tokens"]  # the same questions
            assert 0 < found[name]["reply_tokens"][0] <= 2 * 3 * 8
        for name in peers:
            assert found["ratios"][name] > 0
            assert found["memory_ratios"][name] > 0


def test_an_unknown_peer() -> None:
    with pytest.raises(BadRequest, match="'trt' is unknown"):
        bench_grpo("x", peers=["trt"])
