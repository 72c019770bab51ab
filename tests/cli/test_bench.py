import importlib.util
import json
from typing import Any

import pytest
from typer.testing import CliRunner

from millet.bench import engine as bench
from millet.cli import bench as module
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
        return {"model": model} | run_fakes()[1]

    monkeypatch.setattr(bench, "bench_engine", fake)
    return made


def invoke(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["engine", *arguments], catch_exceptions=False)


def test_json_is_one_object_and_nothing_else(calls: list[Any], tmp_path: Any) -> None:
    result = invoke("--model", str(tmp_path), "--peers", "none", "--rounds", "2", "--threads", "1", "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["phases"]["decode_1"]["ratio"]["other"] > 1
    (model, peers, options) = calls[0]
    assert (model, peers, options["rounds"], options["threads"]) == (str(tmp_path), [], 2, 1)


def test_the_table_has_a_line_for_each_phase_and_contender(calls: list[Any], tmp_path: Any) -> None:
    lines = invoke("--model", str(tmp_path), "--peers", "none").stdout.splitlines()
    (decode,) = (line for line in lines if line.startswith("decode_3"))
    assert decode.split()[1:5] == ["30.0", "tok/s", "10.0", "tok/s"]
    assert "3.00x" in decode
    assert any(line.startswith("load") and "10.00x" in line for line in lines)
    assert [line.split()[0] for line in lines if " MB" in line] == ["millet", "other"]


def test_peers_are_those_installed_unless_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert parse_peers("none") == []
    assert parse_peers("transformers") == ["transformers"]
    with pytest.raises(BadRequest, match="no peer is called 'vllm'"):
        parse_peers("transformers,vllm")
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    assert parse_peers(None) == []
    with pytest.raises(BadRequest, match="transformers is not installed"):
        parse_peers("transformers")
    assert importlib.util.find_spec("transformers"), "the real one is there"
