"""The benchmark's course and arithmetic, on contenders whose time is known."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM

from millet.bench import engine as module
from millet.bench.course import Phase, large_phases, phases
from millet.bench.engine import bench_engine, bench_shape, best_roof, compete, entrants, profile
from millet.bench.report import report
from millet.engine.planner import BATCHES, Cost, Precision
from millet.errors import BadRequest, MilletError
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
COST = Cost.of(ModelConfig.from_hf(HF))
READ = COST.parameters - COST.unread  # weights that a token reads
ROOF = Roof(read=20.0, fp32=100.0, bf16=None, int8=None, dispatch=1e-6, device="cpu", threads=2)


class Fake:
    """Takes `prefill` seconds for each prompt token and `step` for each step of decode; writes what it is told."""

    def __init__(
        self, name: str, log: list[tuple[str, dict[str, Any]]], prefill: float, step: float, itemsize: int = 4
    ) -> None:
        self.name, self.log, self.prefill, self.step, self.itemsize = name, log, prefill, step, itemsize
        self.peak = 1000
        self.told: dict[str, Any] = {}

    def call(self, do: str, **arguments: Any) -> dict[str, Any]:
        self.log.append((self.name, {"do": do} | arguments))
        self.peak += 10
        answer: dict[str, Any] = {"seconds": 3.0 if self.name == "millet" else 30.0, "peak_bytes": self.peak}
        if do == "start":
            return answer | {"versions": {self.name: "1"}, "bare_bytes": 500}
        if do == "load":
            weights = self.itemsize * READ
            told = {"path": "/where/it/is", "config": HF, "prompts": [[1, 2]], "weight_bytes": weights, "threads": 2}
            return answer | told | {"cache_itemsize": self.itemsize} | self.told
        if do == "profile":
            return answer | {"operations": {"products": 2.0}}
        prompts, new = arguments["prompts"], arguments["new_tokens"]
        seconds = self.prefill * sum(map(len, prompts)) + self.step * (new - 1)
        tokens = [[sum(prompt) % 50] * new for prompt in prompts]
        return {"seconds": seconds, "peak_bytes": self.peak, "token_ids": tokens}


COURSE = [Phase("prefill_8", 1, 8, 1), Phase("decode_1", 1, 4, 5), Phase("decode_3", 3, 4, 5)]


def run(rounds: int = 2) -> tuple[list[tuple[str, dict[str, Any]]], dict[str, Any]]:
    log: list[tuple[str, dict[str, Any]]] = []
    workers = {"millet": Fake("millet", log, 0.01, 0.1), "other": Fake("other", log, 0.04, 0.3)}
    config, _, tallies = compete(workers, "a-name", COURSE, rounds=rounds)
    return log, report(tallies, config, ROOF, COURSE, rounds) | {"fidelity": {}, "operations": {}}


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


def test_a_disturbed_call_does_not_make_decode_look_fast() -> None:
    """In the second round the short call was held up until it took as long as the long one."""
    assert COURSE[1].seconds([[1.1, 0.1], [1.2, 1.2], [1.3, 0.1]]) == pytest.approx(1.1)
    assert COURSE[0].seconds([[0.4], [9.0], [0.5]]) == 0.5


def test_ratios_are_above_one_where_millet_is_ahead() -> None:
    _, result = run()
    assert result["load"]["ratio"] == {"other": 10.0}
    assert result["phases"]["prefill_8"]["ratio"] == pytest.approx({"other": 4})
    assert result["phases"]["decode_3"]["ratio"] == pytest.approx({"other": 3})


def by_hand(rows: int, batch: int, context: int, itemsize: int) -> float:
    """Seconds of a step on ROOF: bytes at 20 GB/s or operations at 100 GFLOP/s, whichever takes longer."""
    reading = itemsize * (READ + batch * context * COST.cached) / 20e9
    head = HF["vocab_size"] * HF["hidden_size"]
    seen = context * COST.attention
    return max(reading, 2 * (rows * (READ - head + seen) + batch * head) / 100e9)


def test_shares_of_the_roof_follow_the_bytes_that_each_contender_reads() -> None:
    log: list[tuple[str, dict[str, Any]]] = []
    workers = {"millet": Fake("millet", log, 0.01, 0.1), "other": Fake("other", log, 0.04, 0.3, itemsize=1)}
    config, _, tallies = compete(workers, "a-name", COURSE, rounds=1)
    result = report(tallies, config, ROOF, COURSE, 1)
    share = result["phases"]["decode_1"]["roof_share"]
    assert share["millet"] == pytest.approx(by_hand(1, 1, 4 + 5 // 2, 4) / 0.1)
    assert share["other"] == pytest.approx(by_hand(1, 1, 4 + 5 // 2, 1) / 0.3)
    prefill = result["phases"]["prefill_8"]["roof_share"]
    assert prefill["millet"] == pytest.approx(by_hand(8, 1, 4, 4) / 0.08)
    assert result["weight_bytes"] == {"millet": 4 * READ, "other": READ}


def test_predictions_are_the_planners_and_of_millet_only() -> None:
    _, result = run()
    phase = COURSE[2]
    expected = 3 / phase.step.predicted_seconds(COST, ROOF, Precision.plain(4))
    assert result["phases"]["decode_3"]["predicted"] == pytest.approx({"millet": expected})


def test_predictions_know_the_native_kernels_and_small_integers() -> None:
    fake = Fake("millet", [], 0.01, 0.1, itemsize=1)
    fake.told = {"native": True, "integers": True}
    config, _, tallies = compete({"millet": fake}, "a-name", COURSE, rounds=1)
    roof, phase = replace(ROOF, int8=400.0), COURSE[2]
    expected = 3 / phase.step.predicted_seconds(COST, roof, Precision(1, 1, native=True, integers=True))
    found = report(tallies, config, roof, COURSE, 1)["phases"]["decode_3"]["predicted"]
    assert found == pytest.approx({"millet": expected})


def test_a_profile_runs_every_phase_once_more() -> None:
    log: list[tuple[str, dict[str, Any]]] = []
    found = profile(Fake("millet", log, 0.01, 0.1), COURSE, 50)
    assert list(found) == [phase.name for phase in COURSE]
    assert [len(call["prompts"]) for _, call in log] == [phase.batch for phase in COURSE]
    assert all(operations == {"products": 2.0} for operations in found.values())


def test_the_best_of_a_peers_contenders_counts_and_each_peer_has_its_rival() -> None:
    """transformers is held against Millet in fp32, llama.cpp against Millet as it comes."""
    log: list[tuple[str, dict[str, Any]]] = []
    speeds = {
        "millet": (0.01, 0.1),
        "millet:fp32": (0.02, 0.2),
        "transformers": (0.06, 0.4),
        "llama.cpp:Q4_0": (0.03, 0.3),
        "llama.cpp:F16": (0.02, 0.6),
    }
    workers = {name: Fake(name, log, *speed) for name, speed in speeds.items()}
    config, _, tallies = compete(workers, "a-name", COURSE, rounds=1)
    result = report(tallies, config, ROOF, COURSE, 1)
    assert result["rivals"] == {"transformers": "millet:fp32", "llama.cpp": "millet"}
    prefill, decode = result["phases"]["prefill_8"], result["phases"]["decode_1"]
    assert prefill["best"] == {"transformers": "transformers", "llama.cpp": "llama.cpp:F16"}
    assert prefill["ratio"] == pytest.approx({"transformers": 3, "llama.cpp": 2})
    assert decode["best"]["llama.cpp"] == "llama.cpp:Q4_0"
    assert decode["ratio"] == pytest.approx({"transformers": 2, "llama.cpp": 3})
    assert result["same_tokens"] == {"transformers": 1.0}


def test_memory_is_that_of_the_first_round_by_phase() -> None:
    _, result = run()
    memory = result["memory"]["millet"]
    # start 1010, load 1020, warm-up 1030, then one call for the prefill and two for each decode phase.
    assert memory["peak_bytes_by_phase"] == {"load": 1020, "prefill_8": 1040, "decode_1": 1050, "decode_3": 1070}
    assert memory["peak_bytes"] == 1070
    assert memory["above_bare_to_weights"] == pytest.approx((1070 - 500) / (4 * READ))


def test_agreement_counts_prompts_with_the_very_same_tokens() -> None:
    _, result = run()
    assert result["same_tokens"] == {"other": 1.0}


def test_the_report_is_json() -> None:
    _, result = run()
    assert json.loads(json.dumps(result)) == result


def test_the_course_is_what_is_promised() -> None:
    names = [phase.name for phase in phases()]
    assert names == ["prefill_128", "prefill_512", *(f"decode_{batch}" for batch in BATCHES)]
    assert [phase.tokens for phase in phases()] == [128, 512, 96, 8 * 64, 32 * 48]
    assert [phase.name for phase in large_phases()] == ["prefill_512", "decode_1"]


def test_the_best_roof_is_the_least_disturbed() -> None:
    rest = {"device": "cpu", "threads": 2}
    other = Roof(read=10.0, fp32=120.0, bf16=7.0, int8=300.0, dispatch=5e-6, **rest)
    expected = Roof(read=20.0, fp32=120.0, bf16=7.0, int8=300.0, dispatch=1e-6, **rest)
    assert best_roof(ROOF, other) == expected


def test_a_toy_model_in_real_processes(tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Millet and transformers in processes of their own, on the same weights: the same tokens come out."""
    write_directory(toy("llama", seed), tmp_path)
    monkeypatch.setattr(module, "phases", lambda: COURSE)
    monkeypatch.setattr(module, "measure_roof", lambda read_bytes: ROOF)
    said: list[str] = []
    result = bench_engine(str(tmp_path), ["transformers"], rounds=1, threads=1, say=said.append)
    assert result["same_tokens"]["transformers"] >= 0.7  # random weights: a near tie may fall either way
    assert result["threads"] == {"millet": 1, "millet:fp32": 1, "transformers": 1}
    assert result["fidelity"]["transformers"]["mean_kl"] < 1e-6
    assert result["fidelity"]["transformers"]["top1_agreement"] > 0.9
    number = AutoModelForCausalLM.from_pretrained(tmp_path).num_parameters()
    assert result["weight_bytes"]["transformers"] < 4 * number
    # Whole panels of 16 outputs: much for a toy, nothing for a model.
    assert 1 <= result["weight_bytes"]["millet:fp32"] / result["weight_bytes"]["transformers"] < 1.5
    assert set(result["versions"]) == {"python", "torch", "millet", "transformers"}
    assert result["load"]["ratio"]["transformers"] > 0
    assert said[-2:] == ["round 1 of 1: decode_3, transformers", "comparing distributions"]


def test_a_model_that_cannot_be_loaded_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "measure_roof", lambda read_bytes: ROOF)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(MilletError, match="the benchmark of millet failed at load: ") as error:
        bench_engine(str(tmp_path), [], rounds=1, threads=1)
    assert "\n" not in str(error.value)


def test_llama_cpp_runs_gguf_files_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(BadRequest, match=r"llama\.cpp runs only those"):
        entrants(str(tmp_path), ["llama.cpp"])
    monkeypatch.setattr(module, "installed", lambda: ["transformers", "llama.cpp"])
    assert list(entrants(str(tmp_path), None)) == ["millet", "millet:fp32", "transformers"]


def test_each_quantisation_of_llama_cpp_is_a_contender(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.gguf"
    path.touch()
    monkeypatch.setattr(module, "kind_of", lambda path: "Q8_0")
    monkeypatch.setattr(module, "quantised", lambda path, kind: path if kind == "Q8_0" else Path(f"made.{kind}"))
    files = entrants(str(path), ["llama.cpp"])
    assert list(files)[:2] == ["millet", "millet:fp32"]
    assert {name: str(file) for name, file in list(files.items())[2:]} == {
        "llama.cpp:Q8_0": str(path),
        "llama.cpp:Q4_1": "made.Q4_1",
        "llama.cpp:Q4_0": "made.Q4_0",
        "llama.cpp:F16": "made.F16",
    }


def test_a_shape_has_no_other_peer_than_llama_cpp() -> None:
    with pytest.raises(BadRequest, match="leave out transformers"):
        bench_shape("r1-distill-qwen-1.5b", ["llama.cpp", "transformers"])
    with pytest.raises(BadRequest, match=r"no shape is called 'x'; there are r1-distill-qwen-1\.5b"):
        bench_shape("x")
