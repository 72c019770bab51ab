"""serve.toml."""

from pathlib import Path

import pytest

from millet.errors import MilletError
from millet.reasoning.reply import Usage
from millet.serve.caller import Limits
from millet.serve.config import Prices, ServeConfig, UpstreamConfig, read_config

WHOLE = """
models = ["a", "b"]
port = 9000
users = true
database = "postgresql://millet@localhost/millet"
slots = 4

[prices]
input = 0.5
output = 2.0
currency = "CNY"

[limits]
requests_per_minute = 60

[upstreams.big]
replicas = ["http://10.0.0.1:8000/v1", "http://10.0.0.2:8000/v1"]
model = "deepseek-ai/DeepSeek-R1"
key_env = "BIG_KEY"
dialect = "vllm"
"""


def read(tmp_path: Path, text: str) -> ServeConfig:
    path = tmp_path / "serve.toml"
    path.write_text(text)
    return read_config(path)


def test_a_whole_file(tmp_path: Path) -> None:
    assert read(tmp_path, WHOLE) == ServeConfig(
        models=("a", "b"),
        port=9000,
        users=True,
        database="postgresql://millet@localhost/millet",
        slots=4,
        prices=Prices(input=0.5, output=2.0, currency="CNY"),
        limits=Limits(requests_per_minute=60),
        upstreams={
            "big": UpstreamConfig(
                ("http://10.0.0.1:8000/v1", "http://10.0.0.2:8000/v1"), "deepseek-ai/DeepSeek-R1", "BIG_KEY", "vllm"
            )
        },
    )


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("prot = 1", "serve.toml: unknown key 'prot'; the nearest known key is 'port'"),
        ("[prices]\ninptu = 1.0", "[prices]: unknown key 'inptu'; the nearest known key is 'input'"),
        ("[upstreams.x]\nreplica = []", "[upstreams.x]: unknown key 'replica'; the nearest known key is 'replicas'"),
        ("port = 'a'", "serve.toml: port: "),
        ("[upstreams.x]\nmodel = 'm'", "upstreams.x.replicas"),
        ("port = ", "cannot be read"),
    ],
)
def test_mistakes_are_named_in_one_line(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(MilletError) as error:
        read(tmp_path, text)
    assert told in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(MilletError, match="does not exist"):
        read_config(tmp_path / "none.toml")


def test_cached_tokens_have_a_price_of_their_own() -> None:
    prices = Prices(input=2.0, cached_input=0.5, output=8.0)
    assert prices.cost(Usage(prompt_tokens=1000, cached_tokens=400, completion_tokens=100)) == pytest.approx(
        (600 * 2.0 + 400 * 0.5 + 100 * 8.0) / 1e6
    )
