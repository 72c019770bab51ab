import json
from typing import Any

import pytest
from typer.testing import CliRunner

from millet.bench import engine as bench
from millet.bench import peers
from millet.cli.bench import app, parse_peers
from millet.errors import BadRequest
from tests.bench.test_engine import run as run_fakes


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, list[str], dict[str, Any]]]:
    """Replaces the measurement by a report of contenders whose time is known."""
    made: list[tuple[str, list[str], dict[str, Any]]] = []

    def fake(model: str, peers: list[str], **options: Any) -> dict[str, Any]:
        made.append((model, peers, options))
        options["say"]("loading: millet")
        return {"model": model} | run_fakes()[1] | {"fidelity": {"other": {"mean_kl": 0.0123, "top1_agreement": 0.5}}}

    monkeypatch.setattr(bench, "bench_engine", fake)
    monkeypatch.setattr(bench, "bench_shape", fake)
    return made


def invoke(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["engine", *arguments], catch_exceptions=False)


def test_json_is_one_object_and_nothing_else(calls: list[Any], tmp_path: Any) -> None:
    result = invoke("--model", str(tmp_path), "--peers", "none", "--rounds", "2", "--threads", "1", "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["phases"]["decode_1"]["ratio"]["other"] > 1
    (model, peers, options) = calls[0]
    assert (model, peers, options["rounds"], options["threads"]) == (str(tmp_path), [], 2, 1)


def test_the_tables_have_a_line_for_each_contender_and_ratio(calls: list[Any], tmp_path: Any) -> None:
    lines = [line.split() for line in invoke("--model", str(tmp_path), "--peers", "none").stdout.splitlines()]
    speeds = next(i for i, line in enumerate(lines) if line[:1] == ["Tokens/s"])
    assert lines[speeds] == ["Tokens/s", "load", "prefill_8", "decode_1", "decode_3"]
    assert lines[speeds + 1] == ["millet", "3.00", "s", "100.0", "10.0", "30.0"]
    assert lines[speeds + 2] == ["other", "30.00", "s", "25.0", "3.3", "10.0"]
    assert lines[speeds + 3] == ["millet", "to", "other", "10.00x", "4.00x", "3.00x", "3.00x"]
    assert [line[0] for line in lines if "MB" in line] == ["millet", "other"]
    assert ["other", "0.012", "50.0%"] in lines


def test_a_shape_is_measured_instead_of_a_model(calls: list[Any]) -> None:
    result = invoke("--shape", "a-shape", "--peers", "none", "--json")
    assert json.loads(result.stdout)["model"] == "a-shape"
    assert calls[0][:2] == ("a-shape", [])


def test_peers_are_those_installed_unless_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert parse_peers(None) is None
    assert parse_peers("none") == []
    assert parse_peers("transformers, transformers") == ["transformers"]
    with pytest.raises(BadRequest, match=r"no peer is called 'vllm'; there are transformers, llama\.cpp, or none"):
        parse_peers("transformers,vllm")
    monkeypatch.setattr(peers, "find_spec", lambda name: None)
    with pytest.raises(BadRequest, match=r"llama-cpp-python is not installed; .* leave llama\.cpp out of --peers"):
        parse_peers("llama.cpp")


def test_a_step_of_reinforcement_by_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    one = {"seconds": 2.0, "parts": {"rollout": 1.25, "backward": 0.75}, "peak_bytes": 3_000_000_000}
    kind = {"millet": one, "trl": one | {"seconds": 8.0}, "ratios": {"trl": 4.0}, "of_the_roof": 0.5}
    given: list[Any] = []

    def fake(model: str, **options: Any) -> dict[str, Any]:
        given.append((model, options["peers"], options["rounds"], options["sampler"]))
        return {"full": kind, "lora": kind}

    monkeypatch.setattr("millet.bench.grpo.bench_grpo", fake)
    monkeypatch.setattr("millet.cli.bench.ensure", lambda model: None)
    table = CliRunner().invoke(app, ["grpo", "-m", "x", "--rounds", "2"], catch_exceptions=False).stdout
    rows = [line.split() for line in table.splitlines() if line.startswith(("full", "lora"))]
    assert rows[0] == ["full,", "millet", "2.00", "1.25", "0.75", "3.00", "GB", "50%"]
    assert rows[1] == ["full,", "trl", "8.00", "1.25", "0.75", "4.00", "3.00", "GB"]
    told = (
        CliRunner()
        .invoke(app, ["grpo", "-m", "x", "--peers", "none", "--sampler", "q8", "--json"], catch_exceptions=False)
        .stdout
    )
    assert json.loads(told)["lora"]["ratios"] == {"trl": 4.0}
    assert given == [("x", ["trl"], 2, "fp32"), ("x", [], 3, "q8")]
