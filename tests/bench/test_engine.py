"""The benchmark's course and arithmetic, on contenders whose time is known."""

import json
from pathlib import Path
from typing import Any

import pytest

from millet.bench import engine as module
from millet.bench.engine import Phase, bench_engine, best, compete, phases, report
from millet.engine.planner import BATCHES, Cost, Step
from millet.errors import MilletError
from millet.kernels.roof import Roof
from millet.models.config import ModelConfig
from tests.models.files import toy, write_directory

HF = {
    "model_type": "llama",
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 512,
}
ROOF = Roof(read=20.0, fp32=100.0, bf16=None, dispatch=1e-6, device="cpu", threads=2)


class Fake:
    """Takes `prefill` seconds for each prompt token and `step` for each step of decode; writes what it is told."""

    def __init__(self, name: str, log: list[tuple[str, dict[str, Any]]], prefill: float, step: float) -> None:
        self.name, self.log, self.prefill, self.step = name, log, prefill, step
        self.peak = 1000

    def call(self, do: str, **arguments: Any) -> dict[str, Any]:
        self.log.append((self.name, {"do": do} | arguments))
        self.peak += 10
        answer: dict[str, Any] = {"seconds": 3.0 if self.name == "millet" else 30.0, "peak_bytes": self.peak}
        if do == "start":
            return answer | {"threads": 2, "versions": {self.name: "1"}, "bare_bytes": 500}
        if do == "load":
            return answer | {"path": "/where/it/is", "config": HF}
        prompts, new = arguments["prompts"], arguments["new_tokens"]
        seconds = self.prefill * sum(map(len, prompts)) + self.step * (new - 1)
        tokens = [[sum(prompt) % 50] * new for prompt in prompts]
        return {"seconds": seconds, "peak_bytes": self.peak, "token_ids": tokens}


COURSE = [Phase("prefill_8", 1, 8, 1), Phase("decode_1", 1, 4, 5), Phase("decode_3", 3, 4, 5)]


def run(rounds: int = 2) -> tuple[list[tuple[str, dict[str, Any]]], dict[str, Any]]:
    log: list[tuple[str, dict[str, Any]]] = []
    workers = {"millet": Fake("millet", log, 0.01, 0.1), "other": Fake("other", log, 0.04, 0.3)}
    config, tallies = compete(workers, "a-name", COURSE, rounds=rounds)
    return log, report(tallies, config, ROOF, COURSE, rounds)


def test_contenders_take_turns_and_get_the_same_prompts_once_each() -> None:
    log, _ = run()
    measured = [(name, call) for name, call in log if call["do"] == "generate"][2:]
    ours = [call["prompts"] for name, call in measured if name == "millet"]
    theirs = [call["prompts"] for name, call in measured if name == "other"]
    assert ours == theirs
    every_prompt = [tuple(prompt) for prompts in ours for prompt in prompts]
    assert len(set(every_prompt)) == len(every_prompt), "a prompt that comes twice could be in the prefix cache"
    turns = [name for i, (name, _) in enumerate(measured) if i == 0 or measured[i - 1][0] != name]
    assert turns == ["millet", "other"] * (len(COURSE) * 2)


def test_peers_load_the_file_that_millet_found() -> None:
    log, _ = run()
    assert [call["model"] for _, call in log if call["do"] == "load"] == ["a-name", "/where/it/is"]


def test_decode_speed_leaves_the_prefill_out() -> None:
    _, result = run()
    assert result["phases"]["prefill_8"]["tokens_per_second"] == pytest.approx({"millet": 100, "other": 25})
    assert result["phases"]["decode_1"]["tokens_per_second"] == pytest.approx({"millet": 10, "other": 10 / 3})
    assert result["phases"]["decode_3"]["tokens_per_second"] == pytest.approx({"millet": 30, "other": 10})


def test_ratios_are_above_one_where_millet_is_ahead() -> None:
    _, result = run()
    assert result["load"]["ratio"] == {"other": 10.0}
    assert result["phases"]["prefill_8"]["ratio"] == pytest.approx({"other": 4})
    assert result["phases"]["decode_3"]["ratio"] == pytest.approx({"other": 3})


def test_shares_of_the_roof_and_prediction_follow_the_planner() -> None:
    _, result = run()
    cost = Cost.of(ModelConfig.from_hf(HF))
    step = Step(rows=3, batch=3, context=4 + 5 // 2)
    decode = result["phases"]["decode_3"]
    assert decode["roof_share"]["millet"] == pytest.approx(step.roof_seconds(cost, ROOF, 4) / 0.1)
    assert decode["roof_share"]["other"] == pytest.approx(step.roof_seconds(cost, ROOF, 4) / 0.3)
    assert decode["predicted"] == pytest.approx(3 / step.predicted_seconds(cost, ROOF, 4))
    prefill = Step(rows=8, batch=1, context=4)
    assert result["phases"]["prefill_8"]["predicted"] == pytest.approx(8 / prefill.predicted_seconds(cost, ROOF, 4))


def test_memory_is_that_of_the_first_round_by_phase() -> None:
    _, result = run()
    memory = result["memory"]["millet"]
    # start 1010, load 1020, warm-up 1030, then one call for the prefill and two for each decode phase.
    assert memory["peak_bytes_by_phase"] == {"load": 1020, "prefill_8": 1040, "decode_1": 1050, "decode_3": 1070}
    assert memory["peak_bytes"] == 1070
    weights = result["weights_bytes"]
    assert memory["above_torch_to_weights"] == pytest.approx((1070 - 500) / weights)


def test_agreement_counts_prompts_with_the_very_same_tokens() -> None:
    _, result = run()
    assert result["same_tokens"] == {"other": 1.0}


def test_the_report_is_json() -> None:
    _, result = run()
    assert json.loads(json.dumps(result)) == result


def test_the_course_is_what_is_promised() -> None:
    names = [phase.name for phase in phases()]
    assert names == ["prefill_128", "prefill_512", *(f"decode_{batch}" for batch in BATCHES)]
    assert [phase.tokens for phase in phases(33)] == [128, 512, 32, 8 * 32, 32 * 32]


def test_the_best_roof_is_the_least_disturbed() -> None:
    other = Roof(read=10.0, fp32=120.0, bf16=7.0, dispatch=5e-6, device="cpu", threads=2)
    assert best(ROOF, other) == Roof(read=20.0, fp32=120.0, bf16=7.0, dispatch=1e-6, device="cpu", threads=2)


def test_a_toy_model_in_real_processes(tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Millet and transformers in processes of their own, on the same weights: the same tokens come out."""
    write_directory(toy("llama", seed), tmp_path)
    monkeypatch.setattr(module, "phases", lambda: COURSE)
    monkeypatch.setattr(module, "measure_roof", lambda: ROOF)
    said: list[str] = []
    result = bench_engine(str(tmp_path), ["transformers"], rounds=1, threads=1, say=said.append)
    assert result["same_tokens"]["transformers"] >= 0.7  # random weights: a near tie may fall either way
    assert result["threads"] == {"millet": 1, "transformers": 1}
    assert set(result["versions"]) == {"python", "torch", "millet", "transformers"}
    assert result["load"]["ratio"]["transformers"] > 0
    assert said[-1] == "round 1 of 1: decode_3, transformers"


def test_a_model_that_cannot_be_loaded_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "measure_roof", lambda: ROOF)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(MilletError, match="the benchmark of millet failed at load: ") as error:
        bench_engine(str(tmp_path), [], rounds=1, threads=1)
    assert "\n" not in str(error.value)
