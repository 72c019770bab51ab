"""The adapter against PEFT: the same arithmetic, the same draw, the same files."""

import json
from pathlib import Path

import pytest
import torch
import transformers
from torch import Tensor, nn

from millet.errors import BadRequest, BadWeights, UnsupportedModel
from millet.models.adapter import Adapter
from millet.models.load import load
from millet.models.lora import LoRALinear
from millet.train.lora import LoraConfig, draw
from millet.train.trainee import Trainee
from tests.models.files import toy, write_directory

peft = pytest.importorskip("peft")

IDS = [5, 9, 60, 31, 12, 44, 45, 101]
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@pytest.fixture
def directory(tmp_path: Path, seed: int) -> Path:
    return write_directory(toy("llama-biases", seed), tmp_path / "base")


def with_peft(directory: Path, **settings: object) -> nn.Module:
    base = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    config = peft.LoraConfig(
        **({"r": 4, "lora_alpha": 8, "target_modules": TARGETS, "task_type": "CAUSAL_LM"} | settings)
    )
    model = peft.get_peft_model(base, config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    return model  # type: ignore[no-any-return]


def logprobs_of(model: nn.Module) -> Tensor:
    return model(torch.tensor([IDS])).logits[0, :-1].log_softmax(-1)[torch.arange(len(IDS) - 1), IDS[1:]]


@pytest.mark.parametrize("settings", [{}, {"use_rslora": True}, {"target_modules": ["q_proj", "v_proj"]}])
def test_peft_s_adapter_loads_here(directory: Path, tmp_path: Path, settings: dict, seed: int) -> None:
    torch.manual_seed(seed)
    theirs = with_peft(directory, **settings)
    theirs.save_pretrained(tmp_path / "adapter")  # type: ignore[operator]
    with torch.no_grad():
        ours = load(tmp_path / "adapter", dtype="float32").logprobs([IDS])[0]
        torch.testing.assert_close(ours, logprobs_of(theirs), rtol=0, atol=1e-4)
        base = load(directory, dtype="float32").logprobs([IDS])[0]
    assert (ours - base).abs().max() > 0.01, "an adapter that changes nothing shows nothing"


@pytest.mark.parametrize("case", ["llama-biases", "qwen3-tied"])
def test_ours_loads_in_peft(case: str, tmp_path: Path, seed: int) -> None:
    directory = write_directory(toy(case, seed), tmp_path / "base")
    trainee = Trainee(load(directory, dtype="float32"), LoraConfig(rank=4, alpha=8.0))
    with torch.no_grad():
        for parameter in trainee.parameters.values():
            parameter.add_(torch.randn(parameter.shape) * 0.1)
        ours = trainee.logprobs([IDS])[0]
    trainee.save(tmp_path / "adapter")
    base = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    theirs = peft.PeftModel.from_pretrained(base, tmp_path / "adapter")
    with torch.no_grad():
        torch.testing.assert_close(ours, logprobs_of(theirs), rtol=0, atol=1e-4)
    names = {name.replace(".default", "") for name, _ in theirs.named_parameters() if "lora_" in name}
    assert names == set(trainee.parameters)


def test_gradients_are_peft_s(directory: Path, tmp_path: Path, seed: int) -> None:
    torch.manual_seed(seed)
    theirs = with_peft(directory)
    theirs.save_pretrained(tmp_path / "adapter")  # type: ignore[operator]
    trainee = Trainee(load(tmp_path / "adapter", dtype="float32"), LoraConfig(rank=4, alpha=8.0))
    logprobs_of(theirs).sum().backward()
    trainee.logprobs([IDS])[0].sum().backward()
    expected = {n.replace(".default", ""): p.grad for n, p in theirs.named_parameters() if p.grad is not None}
    assert expected.keys() == trainee.parameters.keys()
    for name, parameter in trainee.parameters.items():
        torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-4, atol=1e-4)


def test_the_draw_is_peft_s(directory: Path) -> None:
    base = nn.Linear(32, 48)
    torch.manual_seed(7)
    ours = LoRALinear(base, draw(base, LoraConfig(rank=4)))
    torch.manual_seed(7)
    theirs = nn.Linear(32, 4, bias=False)  # whose reset is PEFT's for A
    torch.testing.assert_close(ours.lora_A, theirs.weight)
    assert not ours.lora_B.any()


def test_half_precision_keeps_what_the_adapter_adds() -> None:
    torch.manual_seed(0)
    base = nn.Linear(32, 48, dtype=torch.bfloat16)
    layer = LoRALinear(base, draw(base, LoraConfig(rank=4, alpha=4.0)))
    x = torch.randn(5, 32, dtype=torch.bfloat16)
    with torch.no_grad():
        layer.lora_B.normal_(std=1e-3)  # below what a bf16 weight resolves
        change = layer(x).float() - layer.base(x).float()
        expected = x.float() @ layer.lora_A.t() @ layer.lora_B.t()
    assert change.abs().max() > 0
    assert (change - expected).abs().max() < 0.02


def test_a_quantised_base_keeps_the_adapter_beside_it(tmp_path: Path, seed: int) -> None:
    from millet.kernels.linear import native

    if not native():
        pytest.skip("no native kernels")
    directory = write_directory(toy("llama-tied", seed, hidden_size=64, intermediate_size=96), tmp_path / "base")
    trainee = Trainee(load(directory, dtype="float32"), LoraConfig(rank=4))
    with torch.no_grad():
        for parameter in trainee.parameters.values():
            parameter.add_(torch.randn(parameter.shape) * 0.1)
        trainee.save(tmp_path / "adapter")
        quantised = load(tmp_path / "adapter", quantize="q8")
        assert quantised.quantised
        expected = trainee.logprobs([IDS])[0]
        rounding = (quantised.logprobs([IDS])[0] - expected).abs().mean()
        without = (load(directory, quantize="q8").logprobs([IDS])[0] - expected).abs().mean()
        assert rounding < without / 4


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"use_dora": True}, UnsupportedModel, "use_dora"),
        ({"bias": "all"}, UnsupportedModel, "bias"),
        ({"peft_type": "IA3"}, UnsupportedModel, "IA3"),
        ({"r": None, "peft_type": None}, UnsupportedModel, "type None"),
        ({"base_model_name_or_path": None}, BadWeights, "names no base"),
    ],
)
def test_other_adapters_are_refused(
    directory: Path, tmp_path: Path, change: dict, error: type[Exception], says: str
) -> None:
    Trainee(load(directory, dtype="float32"), LoraConfig(rank=4)).save(tmp_path / "adapter")
    path = tmp_path / "adapter" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(error, match=says):
        load(tmp_path / "adapter")


def test_damaged_adapters(directory: Path, tmp_path: Path) -> None:
    Trainee(load(directory, dtype="float32"), LoraConfig(rank=4)).save(tmp_path / "adapter")
    other = write_directory(toy("llama-biases", 0, intermediate_size=64), tmp_path / "other")
    path = tmp_path / "adapter" / "adapter_config.json"
    good = path.read_text()
    path.write_text(good.replace(str(directory), str(other)))
    with pytest.raises(BadWeights, match="the base model that it was trained on"):
        load(tmp_path / "adapter")
    path.write_text("[]")
    with pytest.raises(BadWeights, match="not an adapter's"):
        Adapter.read(tmp_path / "adapter")
    path.write_text(good)
    (tmp_path / "adapter" / "adapter_model.safetensors").write_bytes(b"short")
    with pytest.raises(BadWeights, match="corrupt"):
        Adapter.read(tmp_path / "adapter")


@pytest.mark.parametrize("settings", [{"rank": 0}, {"alpha": 0.0}, {"alpha": float("nan")}])
def test_impossible_settings(settings: dict) -> None:
    with pytest.raises(BadRequest):
        LoraConfig(**settings)
