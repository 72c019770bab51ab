"""Accounts: who comes in and as whom, over HTTP as a browser and a program see it; on both databases."""

import asyncio
import threading
from collections.abc import Iterator
from dataclasses import asdict

import pytest
import sqlalchemy as sa
from anyio import to_thread
from argon2 import PasswordHasher
from fastapi import FastAPI, Request

from millet.reasoning.reply import Usage
from millet.serve import passwords, throttle
from millet.serve.accounts import Accounts, narrowest
from millet.serve.caller import LOCAL, Caller, Limits
from millet.serve.config import Prices, ServeConfig
from millet.serve.dependencies import get_caller
from millet.serve.errors import ApiError
from millet.serve.store import Store
from tests.serve.small_app import PASSWORD, Browser, small_app

NO_LIMITS = asdict(Limits())


@pytest.fixture(autouse=True)
def _cheap_hashes(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """argon2id as ever, with less of it."""
    passwords._nobodys.cache_clear()
    monkeypatch.setattr(passwords, "_hasher", PasswordHasher(time_cost=1, memory_cost=64, parallelism=1))
    yield
    passwords._nobodys.cache_clear()


@pytest.fixture
def people(store: Store) -> Accounts:
    return Accounts(store, Limits(concurrency=4))


@pytest.fixture
def app(store: Store, people: Accounts) -> FastAPI:
    return small_app(store, people)


@pytest.fixture
def admin(app: FastAPI, people: Accounts) -> Browser:
    """Signed in as the first administrator."""
    browser = Browser(app)
    browser.accept(str(people.first_token()), "root@example.org")
    return browser


@pytest.fixture
def member(app: FastAPI, admin: Browser) -> Browser:
    browser = Browser(app)
    browser.accept(admin.post("/api/invitations", json={}).json()["token"], "Mia")
    return browser


def programs(app: FastAPI, secret: str) -> Browser:
    """A client with an API key."""
    return Browser(app, headers={"Authorization": f"Bearer {secret}"})


def make_key(browser: Browser, limits: Limits | None = None) -> tuple[str, str]:
    """Its id and its secret."""
    made = browser.post("/api/keys", json={"name": "laptop", "limits": asdict(limits or Limits())}).json()
    return made["key"]["id"], made["secret"]


# One person


def test_one_person_needs_no_account(store: Store) -> None:
    browser = Browser(small_app(store, None))
    me = {"account": None, "role": "admin", "one_person": True, "csrf": None, "currency": None}
    assert browser.get("/api/account").json() == me


@pytest.mark.parametrize(("prices", "currency"), [(Prices(currency="CNY"), None), (Prices(0.2, currency="CNY"), "CNY")])
def test_money_has_a_currency_where_something_costs(store: Store, prices: Prices, currency: str | None) -> None:
    app = small_app(store, None)
    app.state.config = ServeConfig(prices=prices)
    assert Browser(app).get("/api/account").json()["currency"] == currency


def test_one_person_has_conversations_and_usage_but_no_keys(store: Store) -> None:
    browser = Browser(small_app(store, None))
    assert browser.post("/api/conversations", json={}).status_code == 201
    assert browser.get("/api/usage").json() == []
    refused = browser.get("/api/keys")
    assert (refused.status_code, refused.json()["error"]["code"]) == (404, "no_accounts")


# Coming in


def test_strangers_are_refused_everywhere(app: FastAPI) -> None:
    open_to_all = {("POST", "/api/login"), ("POST", "/api/invitations/accept")}
    browser = Browser(app)
    asked = 0
    for path, methods in app.openapi()["paths"].items():
        for method in methods:
            if (method.upper(), path) not in open_to_all:
                url = path.replace("{", "").replace("}", "")
                assert browser.request(method, url, json={}).status_code == 401, (method, path)
                asked += 1
    assert asked > 20


def test_the_first_administrator_takes_over_what_one_person_wrote(store: Store, app: FastAPI, people: Accounts) -> None:
    store.conversations.create(LOCAL.account, "from before")
    token, another = people.first_token(), people.first_token()
    browser = Browser(app)
    me = browser.accept(str(token), "root@example.org")
    assert (me["role"], me["account"]["name"]) == ("admin", "root@example.org")
    assert [each["title"] for each in browser.get("/api/conversations").json()["conversations"]] == ["from before"]
    assert people.first_token() is None
    for used in (token, another):
        again = Browser(app).post("/api/invitations/accept", json={"token": used, "password": PASSWORD})
        assert again.status_code == 404


def test_an_invitation_works_once_and_not_when_old(app: FastAPI, store: Store, admin: Browser) -> None:
    made = admin.post("/api/invitations", json={"role": "admin"}).json()
    assert [each["id"] for each in admin.get("/api/invitations").json()] == [made["invitation"]["id"]]
    assert Browser(app).accept(made["token"], "second")["role"] == "admin"
    body = {"token": made["token"], "name": "third", "password": PASSWORD}
    assert Browser(app).post("/api/invitations/accept", json=body).status_code == 404
    old, revoked = (admin.post("/api/invitations", json={}).json() for _ in range(2))
    with store.database.write() as connection:
        expire = sa.text("UPDATE invitations SET expires = 1 WHERE id = :id")
        connection.execute(expire, {"id": old["invitation"]["id"]})
    assert admin.delete(f"/api/invitations/{revoked['invitation']['id']}").status_code == 204
    for link in (old, revoked):
        answer = Browser(app).post("/api/invitations/accept", json=body | {"token": link["token"]})
        assert answer.status_code == 404


def test_one_invitation_makes_one_account(people: Accounts, admin: Browser) -> None:
    token = people.invite("member")[1]
    outcomes: list[str] = []

    def accept(name: str) -> None:
        try:
            outcomes.append(people.accept(token, name, PASSWORD)[0].name)
        except ApiError as error:
            outcomes.append(str(error.status))

    threads = [threading.Thread(target=accept, args=(f"person {number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes)[:3] == ["404"] * 3
    assert len(people.list()) == 2


def test_names_and_passwords_are_checked(app: FastAPI, admin: Browser, member: Browser) -> None:
    token = admin.post("/api/invitations", json={}).json()["token"]
    for name in ("mia", "ＭＩＡ "):
        body = {"token": token, "name": name, "password": PASSWORD}
        assert Browser(app).post("/api/invitations/accept", json=body).status_code == 409, name
    for name in (None, "", " ", "a\nb", "nul\0", "x" * 255):
        body = {"token": token, "name": name, "password": PASSWORD}
        assert Browser(app).post("/api/invitations/accept", json=body).status_code == 422, name
    for password in ("short", "x" * 1025):
        body = {"token": token, "name": "new", "password": password}
        assert Browser(app).post("/api/invitations/accept", json=body).status_code == 422, password
    Browser(app).accept(token, "the link still works")


def test_signing_in_and_out(app: FastAPI, member: Browser) -> None:
    browser = Browser(app)
    assert browser.sign_in("mia", "wrong password") == 401
    assert browser.sign_in("nobody") == 401
    assert browser.get("/api/account").status_code == 401
    assert browser.sign_in(" MIA ") == 200
    me = browser.get("/api/account").json()
    assert (me["account"]["name"], me["csrf"]) == ("Mia", browser.headers["X-CSRF-Token"])
    assert me["account"]["limits"]["concurrency"] == 4
    cookies = dict(browser.cookies)
    assert browser.post("/api/logout").status_code == 204
    assert not browser.cookies
    assert Browser(app, cookies=cookies).get("/api/account").status_code == 401
    assert member.get("/api/account").status_code == 200


def test_the_cookie_is_for_the_server_alone(app: FastAPI, member: Browser) -> None:
    for scheme in ("http", "https"):
        answer = Browser(app, base_url=f"{scheme}://testserver").post(
            "/api/login", json={"name": "Mia", "password": PASSWORD}
        )
        parts = {part.strip().lower() for part in answer.headers["set-cookie"].split(";")}
        assert {"httponly", "samesite=lax", "path=/"} <= parts
        assert ("secure" in parts) == (scheme == "https")


def test_secrets_are_not_in_the_database(store: Store, member: Browser) -> None:
    _, secret = make_key(member)
    cookie = member.cookies["millet_session"]
    with store.database.read() as connection:
        tables = ("accounts", "invitations", "sessions", "api_keys")
        kept = str([connection.execute(sa.text(f"SELECT * FROM {table}")).all() for table in tables])
    for value in (PASSWORD, secret, cookie):
        assert value not in kept
    assert kept.count("$argon2id$") == 2


def test_requests_of_a_session_that_change_something_need_its_csrf_token(member: Browser, admin: Browser) -> None:
    for wrong in ("", "wrong", admin.headers["X-CSRF-Token"], "é"):
        answer = member.post("/api/conversations", json={}, headers={"X-CSRF-Token": wrong.encode()})
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "csrf")
    assert member.get("/api/conversations", headers={"X-CSRF-Token": ""}).status_code == 200
    assert member.post("/api/conversations", json={}).status_code == 201


def test_guessing_is_slowed_for_a_name_and_for_an_address(app: FastAPI, member: Browser) -> None:
    browser = Browser(app)
    for _ in range(throttle.PER_NAME):
        assert browser.sign_in("mia", "wrong password") == 401
    refused = browser.post("/api/login", json={"name": "mia", "password": PASSWORD})
    assert refused.status_code == 429
    assert 1 <= int(refused.headers["Retry-After"]) <= throttle.WINDOW
    for number in range(throttle.PER_ADDRESS - throttle.PER_NAME):
        assert browser.sign_in(f"name {number}") == 401
    assert browser.sign_in("another name") == 429
    elsewhere = Browser(app, client=("192.0.2.7", 1))
    assert elsewhere.sign_in("another name") == 401


def test_neighbours_in_ipv6_count_as_one_address() -> None:
    counted = throttle.Throttle()
    for number in range(throttle.PER_ADDRESS):
        counted.begin(f"name {number}", f"2001:db8::{number:x}")
        counted.begin(f"other {number}", f"::ffff:192.0.2.{number}")
    with pytest.raises(ApiError):
        counted.begin("mia", "2001:db8::ffff:1")
    counted.begin("mia", "2001:db8:0:1::1")
    counted.begin("mia", "::ffff:192.0.2.200")


def test_success_forgets_the_failures_of_the_name() -> None:
    counted = throttle.Throttle()
    for _ in range(5):
        for _ in range(throttle.PER_NAME - 1):
            counted.begin("mia", "here")
        counted.begin("mia", "elsewhere")
        counted.succeeded("mia", "elsewhere")
    for number in range(throttle.PER_ADDRESS - 5 * (throttle.PER_NAME - 1)):
        counted.begin(f"name {number}", "here")
    with pytest.raises(ApiError):
        counted.begin("mia", "here")


def test_a_password_is_hashed_anew_when_the_parameters_change(
    store: Store, app: FastAPI, member: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(passwords, "_hasher", PasswordHasher(time_cost=2, memory_cost=64, parallelism=1))
    assert Browser(app).sign_in("mia") == 200
    with store.database.read() as connection:
        hashes = connection.execute(sa.text("SELECT password_hash FROM accounts WHERE name = 'Mia'")).scalars().all()
    assert all("t=2" in each for each in hashes)
    assert Browser(app).sign_in("mia") == 200


def test_the_defaults_of_argon2_are_used() -> None:
    hashed = PasswordHasher().hash("x")
    assert hashed.startswith("$argon2id$v=19$m=65536,t=3,p=4$")


def test_a_new_password_ends_the_other_sessions(app: FastAPI, member: Browser) -> None:
    other = Browser(app)
    assert other.sign_in("mia") == 200
    wrong = member.post("/api/account/password", json={"old": "wrong password", "new": "new password"})
    assert wrong.status_code == 401
    assert member.post("/api/account/password", json={"old": PASSWORD, "new": "new password"}).status_code == 204
    assert member.get("/api/account").status_code == 200
    assert other.get("/api/account").status_code == 401
    assert (Browser(app).sign_in("mia"), Browser(app).sign_in("mia", "new password")) == (401, 200)


def test_a_forgotten_password_is_reset_by_a_link(app: FastAPI, admin: Browser, member: Browser) -> None:
    account = member.get("/api/account").json()["account"]["id"]
    token = admin.post(f"/api/admin/accounts/{account}/reset").json()["token"]
    body = {"token": token, "password": "another password"}
    assert Browser(app).post("/api/invitations/accept", json=body).json()["account"]["name"] == "Mia"
    assert member.get("/api/account").status_code == 401
    assert Browser(app).sign_in("mia", "another password") == 200


# API keys


def test_a_key_comes_in_until_it_is_revoked(app: FastAPI, member: Browser) -> None:
    key, secret = make_key(member)
    assert secret.startswith("mk-")
    program = programs(app, secret)
    assert program.post("/api/conversations", json={}).status_code == 201
    assert Browser(app, headers={"x-api-key": secret}).get("/api/conversations").status_code == 200
    listed = member.get("/api/keys").json()[0]
    assert (listed["id"], listed["name"], listed["prefix"]) == (key, "laptop", secret[:11])
    assert listed["last_used"] >= listed["created"]
    assert member.delete(f"/api/keys/{key}").status_code == 204
    assert member.delete(f"/api/keys/{key}").status_code == 404
    assert program.get("/api/conversations").status_code == 401


def test_a_wrong_key_is_refused(app: FastAPI, member: Browser) -> None:
    for secret in ("", "mk-", "mk-x", "é", "a b"):
        browser = Browser(app, cookies=dict(member.cookies), headers={"Authorization": f"Bearer {secret}".encode()})
        answer = browser.get("/api/conversations")
        assert (answer.status_code, answer.json()["error"]["type"]) == (401, "authentication_error"), secret


def test_a_key_makes_no_keys_and_administers_nothing(app: FastAPI, admin: Browser) -> None:
    program = programs(app, make_key(admin)[1])
    for method, path in [("GET", "/api/keys"), ("POST", "/api/keys"), ("GET", "/api/admin/accounts"),
                         ("POST", "/api/invitations"), ("POST", "/api/account/password")]:  # fmt: skip
        assert program.request(method, path, json={"name": "x", "old": "x", "new": "x"}).status_code == 403
    assert program.get("/api/account").json()["csrf"] is None


def test_nobody_revokes_anothers_key(admin: Browser, member: Browser) -> None:
    key, _ = make_key(member)
    assert admin.delete(f"/api/keys/{key}").status_code == 404


def test_a_keys_limits_only_narrow_its_accounts() -> None:
    account = Limits(concurrency=4, requests_per_minute=None, tokens_per_minute=100, spend_per_day=1.0)
    key = Limits(concurrency=8, requests_per_minute=5, tokens_per_minute=10, spend_per_day=None)
    assert narrowest(account, key) == Limits(4, 5, 10, 1.0)


def test_limits_reach_the_caller(people: Accounts, admin: Browser, member: Browser) -> None:
    account = member.get("/api/account").json()["account"]["id"]
    admin.patch(f"/api/admin/accounts/{account}", json={"limits": {"tokens_per_minute": 50}})
    key, secret = make_key(member, Limits(concurrency=9, requests_per_minute=3))
    caller = people.authenticate(secret, None, None, "POST")
    assert caller == Caller(account, "member", key, Limits(4, 3, 50), of_account=Limits(4, None, 50))


@pytest.mark.asyncio
async def test_slow_work_of_others_keeps_nobody_at_the_door(app: FastAPI, member: Browser) -> None:
    _, secret = make_key(member)
    headers = [(b"authorization", f"Bearer {secret}".encode())]
    request = Request({"type": "http", "app": app, "method": "POST", "path": "/", "headers": headers})
    threads = to_thread.current_default_thread_limiter()
    for _ in range(int(threads.available_tokens)):
        threads.acquire_on_behalf_of_nowait(object())
    async with asyncio.timeout(30):
        assert (await get_caller(request)).role == "member"


# Administrators


def test_members_administer_nothing(member: Browser) -> None:
    for method, path in [("GET", "/api/admin/accounts"), ("PATCH", "/api/admin/accounts/local"),
                         ("GET", "/api/admin/usage"), ("POST", "/api/invitations"), ("GET", "/api/invitations"),
                         ("POST", "/api/admin/accounts/local/reset")]:  # fmt: skip
        answer = member.request(method, path, json={})
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "administrator_needed")


def test_a_disabled_account_is_out_at_once(app: FastAPI, admin: Browser, member: Browser) -> None:
    program = programs(app, make_key(member)[1])
    account = member.get("/api/account").json()["account"]["id"]
    assert admin.patch(f"/api/admin/accounts/{account}", json={"disabled": True}).json()["disabled"] is True
    assert member.get("/api/account").status_code == 401
    assert program.get("/api/conversations").status_code == 403
    assert Browser(app).sign_in("mia") == 403
    admin.patch(f"/api/admin/accounts/{account}", json={"disabled": False})
    assert Browser(app).sign_in("mia") == 200


def test_an_administrator_is_always_left(admin: Browser, member: Browser) -> None:
    own = admin.get("/api/account").json()["account"]["id"]
    for change in ({"disabled": True}, {"role": "member"}):
        answer = admin.patch(f"/api/admin/accounts/{own}", json=change)
        assert (answer.status_code, answer.json()["error"]["code"]) == (409, "last_administrator")
    other = member.get("/api/account").json()["account"]["id"]
    assert admin.patch(f"/api/admin/accounts/{other}", json={"role": "admin"}).status_code == 200
    assert admin.patch(f"/api/admin/accounts/{own}", json={"role": "member"}).status_code == 200
    assert [each["role"] for each in member.get("/api/admin/accounts").json()] == ["admin", "member"]


def test_changes_of_no_account_are_404(admin: Browser) -> None:
    assert admin.patch("/api/admin/accounts/nobody", json={"disabled": True}).status_code == 404
    assert admin.post("/api/admin/accounts/nobody/reset").status_code == 404


# Usage


def test_usage_is_counted_and_paid_for(people: Accounts, admin: Browser, member: Browser) -> None:
    account = member.get("/api/account").json()["account"]["id"]
    admin.patch(f"/api/admin/accounts/{account}", json={"balance": 1.0})
    key, secret = make_key(member)
    program = people.authenticate(secret, None, None, "GET")
    person = Caller(account)
    people.record_usage(program, "big", Usage(10, 20, 5, 3), 0.25)
    people.record_usage(program, "big", Usage(1, 2, 0, 0), 0.25)
    people.record_usage(person, "small", Usage(7, 8, 0, 0), 0.125)
    assert people.spent_today(account) == 0.625
    assert people.spent_today(account, key) == 0.5
    assert people.balance(account) == 0.375
    rows = member.get("/api/usage").json()
    names = (
        "model",
        "key",
        "requests",
        "prompt_tokens",
        "cached_tokens",
        "completion_tokens",
        "reasoning_tokens",
        "cost",
    )
    assert [tuple(row[name] for name in names) for row in rows] == [
        ("big", key, 2, 11, 3, 22, 5, 0.5),
        ("small", None, 1, 7, 0, 8, 0, 0.125),
    ]
    assert admin.get("/api/usage").json() == []
    assert admin.get("/api/admin/usage").json() == rows
    assert people.balance(LOCAL.account) is None


def test_days_end_at_midnight_utc(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    days = iter([86399.0, 86400.0])
    for _ in range(2):
        now = next(days)
        monkeypatch.setattr("millet.serve.store.usage.time.time", lambda now=now: now)
        store.usage.record(LOCAL, "m", Usage(1, 1, 0, 0), 1.0)
    assert store.usage.spent_today(LOCAL.account) == 1.0
    assert [row.day for row in store.usage.report(LOCAL.account, 2)] == ["1970-01-02", "1970-01-01"]
    assert [row.day for row in store.usage.report(LOCAL.account, 1)] == ["1970-01-02"]


@pytest.mark.asyncio
async def test_password_checks_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    slots = passwords.Slots()
    monkeypatch.setattr(passwords, "WAITING", 3)
    release = threading.Event()
    running = [asyncio.create_task(slots.run(release.wait)) for _ in range(passwords.AT_ONCE + 3)]
    await asyncio.sleep(0.05)
    with pytest.raises(ApiError) as caught:
        await slots.run(release.wait)
    assert caught.value.status == 503
    release.set()
    assert all(await asyncio.gather(*running))
