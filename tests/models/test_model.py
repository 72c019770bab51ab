"""`Model.logprobs` against transformers, on the native kernels and without them."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import millet.models.model
from millet.errors import BadRequest, PromptTooLong
from millet.models.model import Model
from tests.models.files import toy, write_directory
from tests.models.test_checkpoint import model_of
from tests.models.toy import draw_sequences


@pytest.fixture(params=["llama-tied", "deepseek_v3"])
def pair(request: pytest.FixtureRequest, tmp_path: Path, seed: int, way: str) -> tuple[Model, nn.Module]:
    peer = toy(request.param, seed)
    model = model_of(write_directory(peer, tmp_path))
    assert model.native == (way == "native")
    return model, peer


def peer_logprobs(peer: nn.Module, ids: list[int]) -> Tensor:
    logits = peer(torch.tensor([ids])).logits[0, :-1].float()
    return logits.log_softmax(-1).gather(1, torch.tensor(ids[1:])[:, None])[:, 0]


def test_logprobs_are_those_of_transformers(pair: tuple[Model, nn.Module], seed: int) -> None:
    model, peer = pair
    sequences = [ids.tolist() for ids in draw_sequences(model.network, [9, 2, 23, 2], seed)]
    with torch.no_grad():
        found = model.logprobs(sequences)
        expected = [peer_logprobs(peer, ids) for ids in sequences]
    assert [len(row) for row in found] == [8, 1, 22, 1]
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.dtype == torch.float32
        assert (ours - theirs).abs().max() < 1e-4


def test_sequences_too_short_to_predict_anything(pair: tuple[Model, nn.Module], seed: int) -> None:
    model, _ = pair
    (ids,) = (ids.tolist() for ids in draw_sequences(model.network, [7], seed))
    with torch.no_grad():
        among = model.logprobs([[], ids, [5], ids])
        alone = model.logprobs([ids])[0]
    assert [len(row) for row in among] == [0, 6, 0, 6]
    assert (among[1] - alone).abs().max() < 1e-5
    assert (among[1] - among[3]).abs().max() < 1e-5
    assert model.logprobs([]) == []
    assert [len(row) for row in model.logprobs([[], [3]])] == [0, 0]


def test_gradients_are_those_of_transformers(pair: tuple[Model, nn.Module], seed: int) -> None:
    model, peer = pair
    peer.model.embed_tokens.padding_idx = None  # type: ignore[union-attr, assignment]  # for which it has no gradient
    sequences = [ids.tolist() for ids in draw_sequences(model.network, [9, 12], seed)]
    torch.cat(model.logprobs(sequences)).sum().backward()
    torch.cat([peer_logprobs(peer, ids) for ids in sequences]).sum().backward()
    theirs = dict(peer.named_parameters())
    compared = 0
    for name, parameter in model.network.named_parameters():
        if name in theirs:  # transformers keeps the experts of a layer stacked
            assert parameter.grad is not None
            expected = theirs[name].grad
            assert expected is not None
            assert (parameter.grad - expected).abs().max() < 1e-3 * max(1.0, expected.abs().max().item()), name
            compared += 1
    assert compared > 20


def test_few_logits_at_a_time_change_nothing(
    pair: tuple[Model, nn.Module], seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, _ = pair
    sequences = [ids.tolist() for ids in draw_sequences(model.network, [9, 23], seed)]
    rows = []
    head = model.network.head

    def watched(hidden_ND: Any) -> Any:
        rows.append(len(hidden_ND if isinstance(hidden_ND, Tensor) else hidden_ND.tensor))
        return head(hidden_ND)

    with torch.no_grad():
        whole = model.logprobs(sequences)
        monkeypatch.setattr(millet.models.model, "LOGITS", 4 * 288)
        monkeypatch.setattr(model.network, "head", watched)
        pieces = model.logprobs(sequences)
    assert rows == [4] * 7 + [2]
    for a, b in zip(whole, pieces, strict=True):
        assert (a - b).abs().max() < 1e-5


def test_what_no_model_could_score_is_refused(pair: tuple[Model, nn.Module]) -> None:
    model, _ = pair
    for ids in ([1, 288], [-1, 1], [288]):
        with pytest.raises(BadRequest, match="from 0 to 287"):
            model.logprobs([ids])
    with pytest.raises(PromptTooLong, match=r"257 tokens .* 256"):
        model.logprobs([[1, 2], [1] * 257])
