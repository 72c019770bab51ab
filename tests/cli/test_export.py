"""A model leaves as a directory that others read, its adapter added."""

from pathlib import Path

import pytest
import torch

from millet.cli import main
from millet.models.adapter import CONFIG
from millet.models.load import load
from millet.train.lora import LoraConfig
from millet.train.trainee import Trainee
from tests.models.files import toy, write_directory

IDS = [3, 1, 4, 1, 5]


def export(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main.main(["export", *map(str, arguments)])
    assert isinstance(ended.value.code, int)
    return ended.value.code


@pytest.fixture
def adapter(tmp_path: Path, seed: int) -> Path:
    torch.manual_seed(seed)
    base = write_directory(toy("llama-tied", seed), tmp_path / "base")
    trainee = Trainee(load(base, dtype="float32"), LoraConfig(rank=4))
    with torch.no_grad():
        for parameter in trainee.parameters.values():
            parameter.add_(torch.randn(parameter.shape) * 0.1)
    trainee.save(tmp_path / "adapter")
    return tmp_path / "adapter"


def test_an_adapter_is_added_to_its_base(adapter: Path, tmp_path: Path) -> None:
    assert export(adapter, "--to", tmp_path / "whole") == 0
    assert not (tmp_path / "whole" / CONFIG).exists()
    (tmp_path / "base").rename(tmp_path / "elsewhere")  # which it needs no more
    whole = load(tmp_path / "whole", dtype="float32").logprobs([IDS])[0]
    (tmp_path / "elsewhere").rename(tmp_path / "base")
    torch.testing.assert_close(whole, load(adapter, dtype="float32").logprobs([IDS])[0])


def test_other_programs_read_it(adapter: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    assert export(adapter, "--to", tmp_path / "half", "--dtype", "bfloat16") == 0
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "half", dtype="auto")
    assert theirs.dtype == torch.bfloat16


def test_what_is_there_stays(adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert export(adapter, "--to", adapter) == 2
    assert "is there already; name a directory that is not" in capsys.readouterr().err
    assert (adapter / CONFIG).exists()
    assert export(adapter, "--to", tmp_path / "new", "--dtype", "float8") == 2
    assert not (tmp_path / "new").exists()
