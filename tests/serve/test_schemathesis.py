"""Whatever the OpenAPI document allows, and what it does not: no request finds a bug in the server."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import httpx2
import hypothesis
import pytest
import schemathesis
from argon2 import PasswordHasher
from hypothesis import HealthCheck, settings

from millet.engine.engine import Engine
from millet.reasoning.assistant import Assistant
from millet.serve import passwords
from millet.serve.accounts import Accounts
from millet.serve.app import create_app
from millet.serve.caller import LOCAL, Limits
from millet.serve.chat import ChatRequest
from millet.serve.config import ServeConfig
from millet.serve.embedded import Embedded, EmbeddedReply
from millet.serve.openai_wire import BROKEN
from millet.serve.store import Store
from tests.reasoning.toys import toy_model
from tests.serve.fakes import FakeBackend, running

EXAMPLES = 12  # of each operation
SEED = secrets.randbelow(2**31)
ONE_PERSON = ServeConfig(port=0)
USERS = replace(ONE_PERSON, users=True)
PASSWORD = "correct horse"

_config = schemathesis.Config()
_config.projects.default.phases.coverage.enabled = False  # thousands of requests for the larger bodies
_app: Any = create_app(ONE_PERSON, {"m": FakeBackend()}, store=None)  # type: ignore[arg-type]  # for its document alone
document = schemathesis.openapi.from_dict(_app.openapi(), config=_config)
bounded = settings(max_examples=EXAMPLES, database=None, suppress_health_check=list(HealthCheck), print_blob=False)


class Toy(Embedded):
    """Checks and renders all that was asked for, and then says only a few tokens of it."""

    async def prepare(self, request: ChatRequest) -> EmbeddedReply:
        await super().prepare(request)
        shorter: Any = {**request.options, "max_tokens": 3, "n": min(2, request.options.get("n") or 1)}
        return await super().prepare(replace(request, options=shorter))


@dataclass
class Site:
    """A server; headers: who asks; known: path parameters that name something."""

    url: str
    headers: dict[str, str] = field(default_factory=dict)
    known: dict[str, str] = field(default_factory=dict)


@pytest.fixture(scope="module", autouse=True)
def _cheap_hashes() -> Iterator[None]:
    """argon2id as ever, with less of it."""
    print(f"seed = {SEED}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(passwords, "_hasher", PasswordHasher(time_cost=1, memory_cost=64, parallelism=1))
        yield


@pytest.fixture(scope="module")
def one_person() -> Iterator[Site]:
    assistant = Assistant(Engine(toy_model(SEED), cache_tokens=4096))
    with running({"m": Toy.of(assistant, "m")}, ONE_PERSON) as url:
        yield Site(url, known=_known(httpx2.Client(base_url=url)))


@pytest.fixture(scope="module")
def by_key(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    database = f"sqlite:///{tmp_path_factory.mktemp('key')}/millet.db"
    with Store.open(database) as store:
        _, secret = Accounts(store).keys.create(LOCAL.account, "laptop", Limits())
    headers = {"Authorization": f"Bearer {secret}"}
    with running({"m": FakeBackend()}, replace(USERS, database=database)) as url:
        yield Site(url, headers, _known(httpx2.Client(base_url=url, headers=headers)))


@pytest.fixture(scope="module")
def by_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """An administrator's."""
    database = f"sqlite:///{tmp_path_factory.mktemp('session')}/millet.db"
    with Store.open(database) as store:
        token = Accounts(store).first_token()
    with running({"m": FakeBackend()}, replace(USERS, database=database)) as url:
        browser = httpx2.Client(base_url=url)
        me = browser.post("/api/invitations/accept", json={"token": token, "name": "root", "password": PASSWORD})
        csrf = me.json()["csrf"]
        browser.headers["X-CSRF-Token"] = csrf
        cookie = "; ".join(f"{name}={value}" for name, value in browser.cookies.items())
        key = browser.post("/api/keys", json={"name": "laptop"}).json()["key"]["id"]
        made = browser.post("/api/invitations", json={}).json()
        member = browser.post(
            "/api/invitations/accept", json={"token": made["token"], "name": "Mia", "password": PASSWORD}
        )
        known = {"key": key, "account": member.json()["account"]["id"], "invitation": made["invitation"]["id"]}
        yield Site(url, {"Cookie": cookie, "X-CSRF-Token": csrf}, known)


def _known(client: httpx2.Client) -> dict[str, str]:
    with client:
        conversation = client.post("/api/conversations", json={"title": "t"}).json()["id"]
        message = {"role": "user", "content": "What is 15 + 8?"}
        said = client.post(f"/api/conversations/{conversation}/messages", json=message).json()["id"]
    return {"conversation": conversation, "message": said, "model": "m"}


def check(case: schemathesis.Case, site: Site) -> None:
    """As it is, and where it names something, also with something that is there."""
    send(case, site)
    named = site.known.keys() & (case.path_parameters or {}).keys()
    if named:
        case.path_parameters = {**case.path_parameters, **{name: site.known[name] for name in named}}
        send(case, site)
    if isinstance(case.body, dict) and isinstance(case.body.get("model"), str):
        case.body = {**case.body, "model": "m"}
        send(case, site)


def send(case: schemathesis.Case, site: Site) -> None:
    response = case.call(base_url=site.url, headers=site.headers)
    assert response.status_code < 500, f"{response.status_code} {response.text}\n{case.as_curl_command()}"
    assert BROKEN not in response.text, case.as_curl_command()
    if response.status_code >= 400:
        assert response.json()["error"]["message"], case.as_curl_command()


@document.parametrize()
@bounded
@hypothesis.seed(SEED)
def test_one_person_with_a_model(case: schemathesis.Case, one_person: Site) -> None:
    check(case, one_person)


@document.include(tag=["accounts", "conversations"]).parametrize()
@bounded
@hypothesis.seed(SEED)
def test_a_program_with_a_key(case: schemathesis.Case, by_key: Site) -> None:
    check(case, by_key)


@document.include(tag=["accounts"]).exclude(path="/api/logout").parametrize()
@bounded
@hypothesis.seed(SEED)
def test_an_administrator_in_a_browser(case: schemathesis.Case, by_session: Site) -> None:
    check(case, by_session)
