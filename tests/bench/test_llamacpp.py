"""llama.cpp as a contender, on a toy model; skipped where it is not installed."""

from importlib.util import find_spec
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch

import millet
from millet.bench import llamacpp as module
from millet.bench.fidelity import divergence
from millet.bench.llamacpp import kind_of, quantised
from millet.bench.peers import PEERS, contender
from millet.bench.shapes import Shape, write
from millet.bench.worker import Worker
from millet.errors import BadWeights, MilletError, PromptTooLong
from tests.models.files import toy, write_gguf

TOY = Shape(hidden=64, layers=2, heads=4, kv_heads=2, intermediate=96, vocabulary=320, context=1024)
needs_llama = pytest.mark.skipif(find_spec("llama_cpp") is None, reason="llama-cpp-python is not installed")


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("llama") / "toy.gguf"
    write(TOY, path)
    return path


@needs_llama
def test_it_says_what_millet_says_on_the_same_file(path: Path, seed: int) -> None:
    model = millet.load(path, dtype="float32", device="cpu")
    ids = np.random.default_rng(seed).integers(0, 320, 40).tolist()
    theirs = contender("llama.cpp:Q4_0")
    theirs.start()
    loaded = theirs.load(str(path))
    assert "CPU" in loaded["build"]
    logits = theirs.logits(ids)
    assert logits.shape == (40, 320)
    kl = divergence(model.logits(ids), torch.from_numpy(logits))
    assert kl.mean() < 0.02  # activations in eight bits, a cache in sixteen
    assert kl.min() >= -1e-9


@needs_llama
def test_a_batch_writes_what_each_prompt_gets_alone_greedily(path: Path, seed: int) -> None:
    theirs = contender("llama.cpp:Q4_0")
    theirs.start()
    theirs.load(str(path))
    prompts = np.random.default_rng(seed).integers(0, 320, (9, 6)).tolist()
    together = theirs.generate(prompts, 5)
    assert [len(tokens) for tokens in together] == [5] * 9
    alone = [theirs.generate([prompt], 5)[0] for prompt in prompts]
    assert sum(a == b for a, b in zip(together, alone, strict=True)) >= 6  # random weights: near ties may fall apart
    first = [int(theirs.logits(prompt)[-1].argmax()) for prompt in prompts]
    assert sum(tokens[0] == token for tokens, token in zip(alone, first, strict=True)) >= 8
    with pytest.raises(PromptTooLong, match="33 sequences of 8 tokens are more than"):
        theirs.generate([[1] * 4] * 33, 5)


@needs_llama
def test_it_uses_the_threads_it_is_given(path: Path) -> None:
    for threads in (1, 2):
        with Worker("llama.cpp:Q4_0", threads) as worker:
            worker.call("start")
            assert worker.call("load", model=str(path))["threads"] == threads


@needs_llama
def test_its_process_does_without_pytorch(path: Path) -> None:
    with Worker("llama.cpp:Q4_0", 1) as worker, Worker("millet", 1) as ours:
        worker.call("start")
        worker.call("load", model=str(path))
        assert worker.call("generate", prompts=[[1, 2]], new_tokens=2)["peak_bytes"] < ours.call("start")["bare_bytes"]


@needs_llama
def test_a_file_that_is_none_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "bad.gguf").write_bytes(b"nothing")
    with Worker("llama.cpp:Q4_0", 1) as worker:
        worker.call("start")
        with pytest.raises(MilletError, match=r"failed at load: llama\.cpp cannot load .*bad\.gguf") as error:
            worker.call("load", model=str(tmp_path / "bad.gguf"))
    assert "\n" not in str(error.value)


@needs_llama
def test_quantising_is_done_once_whole_and_into_the_right_type(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MILLET_HOME", str(tmp_path))
    assert quantised(path, "Q4_0") == path
    made = quantised(path, "Q8_0")
    assert list((tmp_path / "bench").iterdir()) == [made]
    assert kind_of(made) == "Q8_0"
    assert {t.tensor_type.name for t in gguf.GGUFReader(made).tensors if "ffn_up" in t.name} == {"Q8_0"}
    monkeypatch.setattr(module, "_quantise", lambda *arguments: pytest.fail("it was there already"))
    assert quantised(path, "Q8_0") == made


@needs_llama
def test_what_cannot_be_quantised_leaves_nothing_behind(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MILLET_HOME", str(tmp_path / "home"))
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    monkeypatch.setattr(module, "kind_of", lambda path: "Q4_0")
    with pytest.raises(BadWeights, match=r"llama\.cpp could not make Q8_0"):
        quantised(cut, "Q8_0")
    assert list((tmp_path / "home" / "bench").iterdir()) == []


def test_a_files_own_kind_is_read_from_it(tmp_path: Path, seed: int) -> None:
    known = write_gguf(toy("llama", seed), tmp_path / "a.gguf", extra={"general.file_type": 15})
    assert kind_of(known) == "Q4_K_M"
    assert kind_of(write_gguf(toy("llama", seed), tmp_path / "b.gguf")) == "F32"


def test_peers_know_whether_they_are_installed() -> None:
    assert PEERS["transformers"].installed
    assert PEERS["llama.cpp"].installed == (find_spec("llama_cpp") is not None)
