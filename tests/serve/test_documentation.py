"""docs/api.md and docs/deploy.md say what there is: no more and no less."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
from starlette.routing import Route

from millet.serve import anthropic, app
from millet.serve.config import ServeConfig, UpstreamConfig
from millet.serve.effort import BUDGETS
from millet.serve.errors import TYPES, ApiError
from millet.serve.metrics import Cause, Metrics
from millet.serve.routes import page
from tests.serve.fakes import FakeBackend

HERE = Path(__file__).parents[2]
API = (HERE / "docs" / "api.md").read_text("utf-8")
DEPLOY = (HERE / "docs" / "deploy.md").read_text("utf-8")
SOURCES = "\n".join(path.read_text("utf-8") for path in sorted((HERE / "millet" / "serve").rglob("*.py")))
METHODS = "GET|POST|PATCH|PUT|DELETE"
TOO_EARLY = (408, 431)  # told before anybody looks at the path

APP: Any = app.create_app(ServeConfig(), {"m": FakeBackend()}, None)  # type: ignore[arg-type, dict-item]  # unopened
OPENAPI = APP.openapi()
OPERATIONS = {
    f"{method.upper()} {path}": operation
    for path, operations in OPENAPI["paths"].items()
    for method, operation in operations.items()
}


def sections() -> dict[str, str]:
    """What the page says of each route, by its heading."""
    parts = re.split(rf"^### ((?:{METHODS}) \S+)$|^#{{2,3}} .*$", API, flags=re.MULTILINE)
    return {heading: text for heading, text in zip(parts[1::2], parts[2::2], strict=True) if heading}


def first_cells(text: str, heading: str) -> list[str]:
    """What the first column of the tables under this heading names."""
    names: list[str] = []
    for table in re.findall(rf"^\| {heading} \|.*\n\| ---.*\n((?:\|.*\n)+)", text, flags=re.MULTILINE):
        for row in table.splitlines():
            names += re.findall(r"`([^`]+)`", row.split(" | ")[0])
    return names


def body_fields(schema: Mapping[str, Any], path: str = "") -> set[str]:
    """The paths of everything that a request's body can have, such as messages[].role."""
    if "$ref" in schema:
        schema = OPENAPI["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    found = set()
    for branch in (*schema.get("anyOf", ()), *schema.get("oneOf", ())):
        found |= body_fields(branch, path)
    if "items" in schema:
        found |= body_fields(schema["items"], f"{path}[]")
    for name, inner in schema.get("properties", {}).items():
        here = f"{path}.{name}" if path else name
        found |= {here} | body_fields(inner, here)
    return found


def test_every_route_has_a_section_and_every_section_a_route() -> None:
    assert set(sections()) == set(OPERATIONS)


@pytest.mark.parametrize("operation", sorted(OPERATIONS))
def test_fields_of_the_body(operation: str) -> None:
    content = OPERATIONS[operation].get("requestBody", {}).get("content", {})
    expected = body_fields(content["application/json"]["schema"]) if content else set()
    named = first_cells(sections()[operation], "Field")
    assert sorted(named) == sorted(expected)  # lists: none is named twice


@pytest.mark.parametrize("operation", sorted(OPERATIONS))
def test_parameters_of_the_query(operation: str) -> None:
    parameters = OPERATIONS[operation].get("parameters", ())
    expected = [one["name"] for one in parameters if one["in"] == "query"]
    assert sorted(first_cells(sections()[operation], "Query")) == sorted(expected)


def test_other_paths_of_the_same_routes() -> None:
    aliases = {
        f"{method} {route.path.replace(':path}', '}')}"
        for module in app.ROUTERS
        if module is not page
        for route in module.router.routes
        if isinstance(route, Route) and not route.include_in_schema
        for method in route.methods or ()
    }
    assert aliases
    named = set(re.findall(rf"`((?:{METHODS}) /[^`]*)`", API)) - {"GET /openapi.json"}
    assert named - set(OPERATIONS) == aliases


def test_statuses_and_types_of_errors() -> None:
    rows = re.findall(r"^\| (\d{3}) \| `(\w+)` \| `(\w+)` \| (.*) \|$", API, flags=re.MULTILINE)
    for status, kind, anthropics, meaning in rows:
        error = ApiError(int(status), "no")
        assert error.type == kind, status
        assert anthropic.error_body(error)["error"]["type"] == anthropics, status
        differs = re.search(r"in Messages with status (\d+)", meaning)
        if int(status) not in TOO_EARLY:
            assert anthropic.error_status(error) == int(differs[1] if differs else status), status
    raised = {int(status) for status in re.findall(r"ApiError\(\s*(\d{3})", SOURCES)}
    assert {int(row[0]) for row in rows} == raised | set(TYPES)


def test_codes_of_errors() -> None:
    given = set(re.findall(r'\bcode="(\w+)"', SOURCES)) | {"requests_per_minute", "tokens_per_minute"}
    for constant in re.findall(r"\bcode=([A-Z]+)\b", SOURCES):
        given |= set(re.findall(rf'^{constant} = "(\w+)"', SOURCES, flags=re.MULTILINE))
    assert 'code=f"{unit}_per_minute"' in SOURCES
    assert set(first_cells(API, "`code`")) == given


def test_headers_are_those_that_are_read_or_sent() -> None:
    named = first_cells(API, "Header")
    assert len(named) > 8
    missing = [name for name in named if name.lower() not in SOURCES.lower()]
    assert not missing
    own = {name.lower() for name in re.findall(r'"(X-[A-Za-z-]+|x-[a-z-]+)"', SOURCES)}
    assert own <= {name.lower() for name in named}


def test_metrics() -> None:
    collected = Metrics(set(), set()).registry.collect()
    exposed = {
        metric.name + ("_total" if metric.type == "counter" else "")
        for metric in collected
        if metric.name.startswith("millet_")
    }
    assert set(first_cells(API, "Metric")) == exposed
    causes = re.search(r"`millet_refusals_total`.*", API)
    assert causes is not None
    assert set(re.findall(r"`(\w+)`", causes[0])) - {"millet_refusals_total"} == set(get_args(Cause))


def test_efforts() -> None:
    rows = dict(re.findall(r"^ *\| (`\w+`(?:, `\w+`)*) \| (no thought|\d+|no limit .*) \|$", API, flags=re.MULTILINE))
    told = {name: value for names, value in rows.items() for name in re.findall(r"`(\w+)`", names)}
    assert set(told) == set(BUDGETS)
    for name, budget in BUDGETS.items():
        assert told[name].startswith({"off": "no thought", "on": "no limit"}.get(str(budget), str(budget)))


@pytest.mark.parametrize("text", [API, DEPLOY], ids=["api.md", "deploy.md"])
def test_links_lead_somewhere(text: str) -> None:
    anchors = {
        re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        for heading in re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE)
    }
    for target in re.findall(r"\]\(([^)]+)\)", text):
        if target.startswith("#"):
            assert target[1:] in anchors
        elif not target.startswith("http"):
            file, _, _ = target.partition("#")
            assert (HERE / "docs" / file).exists()


def config_keys(kind: type, path: str = "") -> set[str]:
    types, found = get_type_hints(kind), set()
    for field in fields(kind):
        inner = UpstreamConfig if field.name == "upstreams" else types[field.name]
        here = f"{path}{field.name}" + (".NAME" if field.name == "upstreams" else "")
        found |= config_keys(inner, f"{here}.") if is_dataclass(inner) else {here}
    return found


def test_keys_of_serve_toml() -> None:
    named = first_cells(DEPLOY, "Key")
    assert sorted(named) == sorted(config_keys(ServeConfig))


def test_defaults_of_serve_toml() -> None:
    rows = re.findall(r"^\| `(\w+)` \| `([^`]*)` \|", DEPLOY, flags=re.MULTILINE)
    assert len(rows) > 5
    for key, told in rows:
        default = getattr(ServeConfig(), key)
        assert told in (f'"{default}"', f"{default:_}" if isinstance(default, int) else "", str(default).lower()), key


def test_dialects() -> None:
    dialects = get_args(get_type_hints(UpstreamConfig)["dialect"])
    assert set(first_cells(DEPLOY, "Dialect")) == set(dialects)


def test_contributing_names_every_file() -> None:
    text = (HERE / "CONTRIBUTING.md").read_text("utf-8")
    section = text.partition("**serve/**")[2].partition("\n**")[0]
    modules = {path.name for path in (HERE / "millet" / "serve").rglob("*.py")} - {"__init__.py"}
    modules |= {path.name for path in (HERE / "millet" / "serve").iterdir() if path.suffix in (".html", ".js", ".css")}
    modules -= {path.name for path in (HERE / "millet" / "serve" / "store" / "migrations").rglob("*.py")}
    assert not {name for name in modules if f"`{name}`" not in section}
    assert not {name for name in re.findall(r"`(\w+\.(?:py|html|js|css))`", section) if name not in modules}
