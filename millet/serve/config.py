"""How the server is set up: `serve.toml`, under the options of `millet serve`."""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, get_type_hints

from pydantic import TypeAdapter, ValidationError

from millet.errors import MilletError
from millet.reasoning.reply import Usage
from millet.serve.caller import Limits

MILLION = 1_000_000


@dataclass(frozen=True, slots=True)
class Prices:
    """Of a million tokens, in `currency`. At 0, the default, nothing is ever spent."""

    input: float = 0.0
    cached_input: float = 0.0
    output: float = 0.0
    currency: Literal["CNY", "USD"] = "USD"

    @property
    def any(self) -> bool:
        """Something costs something."""
        return bool(self.input or self.cached_input or self.output)

    def cost(self, usage: Usage) -> float:
        fresh = usage.prompt_tokens - usage.cached_tokens
        spent = fresh * self.input + usage.cached_tokens * self.cached_input + usage.completion_tokens * self.output
        return spent / MILLION


@dataclass(frozen=True, slots=True)
class UpstreamConfig:
    """Another OpenAI-compatible server. replicas: base URLs, such as http://127.0.0.1:8000/v1. model: its name there.
    key_env: the environment variable that holds its API key. dialect: how it is told to think or not to."""

    replicas: tuple[str, ...]
    model: str
    key_env: str | None = None
    dialect: Literal["openai", "deepseek", "vllm", "sglang", "llama-server", "millet"] = "openai"


@dataclass(frozen=True, slots=True)
class ServeConfig:
    """models: what the engine of this process serves, the default first. slots: replies computed at once, of all
    models together. queue: requests that may wait beside them. database: an SQLAlchemy URL; None: `default_database`.
    users: accounts are needed. metrics_port: Prometheus metrics on 127.0.0.1; None: the port after `port`, 0: none.
    max_tokens: of a reply whose request does not say. max_body: bytes of a request. keep_alive: seconds of silence
    before a sign of life is sent. body_timeout: seconds that a request may take to arrive."""

    models: tuple[str, ...] = ()
    host: str = "127.0.0.1"
    port: int = 8080
    users: bool = False
    database: str | None = None
    quantize: Literal["q8", "q4", "off"] | None = None
    slots: int = 32
    queue: int = 256
    max_tokens: int = 2048
    max_body: int = 4 * 1024 * 1024
    keep_alive: float = 10.0
    body_timeout: float = 30.0
    metrics_port: int | None = None
    trusted_proxies: tuple[str, ...] = ()
    prices: Prices = field(default_factory=Prices)
    limits: Limits = field(default_factory=Limits)
    upstreams: Mapping[str, UpstreamConfig] = field(default_factory=dict)


def default_database() -> str:
    """A SQLite file: in MILLET_HOME where that is set, else where the user's data is, not among what may be deleted."""
    data = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    home = Path(os.environ.get("MILLET_HOME") or Path(data) / "millet").expanduser().absolute()
    try:
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise MilletError(f"cannot make {home} ({error.strerror}); set MILLET_HOME, or give --database") from error
    return f"sqlite:///{home / 'millet.db'}"


def read_config(path: Path) -> ServeConfig:
    """Raises MilletError that names the file, the key, and for an unknown key the nearest known one."""
    try:
        document = tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise MilletError(f"{path} does not exist; write it, or leave --config out") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise MilletError(f"{path} cannot be read ({error}); correct it") from error
    _check_keys(document, ServeConfig, path.name)
    for name, table in document.get("upstreams", {}).items():
        if isinstance(table, dict):
            _check_keys(table, UpstreamConfig, f"{path.name}: [upstreams.{name}]")
    try:
        return TypeAdapter(ServeConfig).validate_python(document)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise MilletError(f"{path.name}: {where}: {first['msg']}; correct it") from error


def _check_keys(table: Mapping[str, Any], kind: type, where: str) -> None:
    assert is_dataclass(kind)
    known = [f.name for f in fields(kind)]
    types = get_type_hints(kind)
    for key, value in table.items():
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1, cutoff=0)
            raise MilletError(f"{where}: unknown key {key!r}; the nearest known key is {near[0]!r}")
        if is_dataclass(types[key]) and isinstance(value, dict):
            _check_keys(value, types[key], f"{where}: [{key}]")
