"""Batches and arithmetic of the benchmark, and the contenders on a toy."""

import json
from pathlib import Path

import pytest

from millet.bench.sft import batches_of, bench_sft, useful_flops
from millet.errors import BadRequest
from millet.models.config import ModelConfig
from millet.train.data import Example
from tests.models.files import toy, write_directory


def test_batches_are_full_and_in_order() -> None:
    examples = [Example.of([i] * n, [False] + [True] * (n - 1)) for i, n in enumerate([5, 4, 30, 3, 8, 2])]
    batches = batches_of(examples, 2, 10)
    assert [[(ids[0], len(ids), first) for ids, first in batch] for batch in batches] == [
        [(0, 5, 1), (1, 4, 1)],
        [(3, 3, 1)],
    ]
    with pytest.raises(BadRequest, match="fewer than 9 batches of 10"):
        batches_of(examples, 9, 10)


def test_useful_arithmetic_by_hand() -> None:
    settings = {"model_type": "llama", "vocab_size": 10, "hidden_size": 4, "intermediate_size": 6}
    settings |= {"num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 8}
    config = ModelConfig.from_hf(settings | {"rms_norm_eps": 1e-5, "tie_word_embeddings": True})
    inside = 4 * 4 * 4 + 3 * 4 * 6 + 3 * 4  # attention, feed-forward, norms
    batch = [([1, 2, 3, 4, 5], 3), ([1, 2], 1)]
    assert useful_flops(config, batch, lora=False) == 6 * (inside * 6 + 40 * 3), "both prompts begin with 1"
    assert useful_flops(config, batch, lora=True) == 4 * (inside * 6 + 40 * 3)
    assert useful_flops(config, batch[:1], lora=True) == 4 * (inside * 5 + 40 * 2)


def test_the_whole_of_it(tmp_path: Path, seed: int) -> None:
    peers = ["trl"]
    directory = write_directory(toy("llama-tied", seed), tmp_path / "model")
    (tmp_path / "chats.jsonl").write_text(
        "".join(
            json.dumps({"messages": [{"role": "user", "content": "hello"}, {"role": "assistant", "content": said}]})
            + "\n"
            for said in ("hello", "no", "hello hello", "yes") * 5
        )
    )
    report = bench_sft(str(directory), tmp_path / "chats.jsonl", peers=peers, rounds=1, threads=1, length=64)
    for kind in ("full", "lora"):
        found = report[kind]
        assert found["millet"]["tokens_per_second"] > 0
        assert found["of_the_roof"] > 0
        for name in peers:  # the same chats: the same loss before any learning
            assert found[name]["losses"][0] == pytest.approx(found["millet"]["losses"][0], abs=1e-3)
            assert found["ratios"][name] > 0


def test_an_unknown_peer(tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match="'trt' is unknown"):
        bench_sft("x", tmp_path / "x", peers=["trt"])
