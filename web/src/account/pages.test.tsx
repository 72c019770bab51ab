import { act, fireEvent, screen, waitFor, within } from "@testing-library/react";
import { expect, test, vi } from "vitest";
import AccountPage from "./AccountPage";
import AdminPage from "./AdminPage";
import InvitePage from "./InvitePage";
import LoginPage from "./LoginPage";
import ProgramsPage from "./ProgramsPage";
import { ADA, ADMIN, ALONE, account, MEMBER, NO_LIMITS, refuse, serve, show } from "./testing";

const KEY = { id: "k1", name: "laptop", prefix: "mk-abcdefgh", limits: NO_LIMITS, created: 1, last_used: null };
const EMPTY = { "GET /api/usage": () => [], "GET /api/keys": () => [] };

const type = (label: string, value: string) => fireEvent.change(screen.getByLabelText(label), { target: { value } });
const press = (name: string | RegExp) => fireEvent.click(screen.getByRole("button", { name }));
const value = (label: string) => (screen.getByLabelText(label) as HTMLInputElement).value;
const alert = async () => (await screen.findByRole("alert")).textContent;

// Signing in

test("signing in leads to where one was going", async () => {
  const sent = serve({ ...account(null), "POST /api/login": () => ADMIN });
  show(LoginPage, "/login?next=%2Faccount");
  await screen.findByLabelText("Name");
  type("Name", "ada");
  type("Password", "correct horse");
  press("Sign in");
  await waitFor(() => expect(window.location.pathname).toBe("/account"));
  expect(sent.at(-1)?.body).toEqual({ name: "ada", password: "correct horse" });
});

test("a refusal is shown, and what was typed stays", async () => {
  serve({ ...account(null), "POST /api/login": () => refuse(429, "too_many_attempts", { "Retry-After": "600" }) });
  show(LoginPage, "/login", "zh");
  await screen.findByLabelText("名称");
  type("名称", "ada");
  type("密码", "wrong");
  press("登录");
  expect(await alert()).toContain("10分钟");
  expect([value("名称"), value("密码")]).toEqual(["ada", "wrong"]);
});

test("an empty form is not sent", async () => {
  const sent = serve(account(null));
  show(LoginPage, "/login");
  fireEvent.click(await screen.findByRole("button", { name: "Sign in" }));
  expect(screen.getByLabelText("Name").getAttribute("aria-invalid")).toBe("true");
  expect(screen.getByLabelText("Password").getAttribute("aria-invalid")).toBe("true");
  expect(sent.filter(({ method }) => method === "POST")).toEqual([]);
});

test("what password managers look for is there", async () => {
  serve(account(null));
  show(LoginPage, "/login");
  expect((await screen.findByLabelText("Name")).getAttribute("autocomplete")).toBe("username");
  expect(screen.getByLabelText("Password").getAttribute("autocomplete")).toBe("current-password");
});

test("pressing twice sends once", async () => {
  let answer: (response: Response) => void = () => {};
  const waiting = new Promise<Response>((resolve) => {
    answer = resolve;
  });
  const sent = serve(account(null));
  show(LoginPage, "/login");
  await screen.findByLabelText("Name");
  type("Name", "ada");
  type("Password", "correct horse");
  const faked = fetch;
  vi.stubGlobal("fetch", (path: string, init: RequestInit) => {
    void faked(path, init);
    return waiting;
  });
  press("Sign in");
  press("Sign in");
  await act(async () => answer(refuse(401, "wrong_password")));
  expect(await alert()).toBe("The name or the password is wrong.");
  expect(sent.filter(({ path }) => path === "/api/login")).toHaveLength(1);
});

// Invitations

test("an invitation's token leaves the address bar, and makes an account with a name", async () => {
  const sent = serve({ ...account(null), "POST /api/invitations/accept": () => ADMIN });
  show(InvitePage, "/invite#secret-token");
  await screen.findByLabelText("Name");
  expect(window.location.href).not.toContain("secret-token");
  type("Name", " ada ");
  type("Password", "short");
  press("Make the account");
  expect(sent.filter(({ method }) => method === "POST")).toEqual([]);
  type("Password", "long enough");
  press("Make the account");
  await waitFor(() => expect(window.location.pathname).toBe("/"));
  expect(sent.at(-1)?.body).toEqual({ token: "secret-token", name: "ada", password: "long enough" });
});

test("a reset asks for a password alone", async () => {
  const sent = serve({ ...account(null), "POST /api/invitations/accept": () => refuse(404, "invitation_used") });
  show(InvitePage, "/invite#reset=secret-token");
  await screen.findByLabelText("New password");
  expect(screen.queryByLabelText("Name")).toBeNull();
  type("New password", "long enough");
  press("Set the password");
  expect(await alert()).toContain("used already");
  expect(sent.at(-1)?.body).toEqual({ token: "secret-token", name: null, password: "long enough" });
  expect(value("New password")).toBe("long enough");
});

test("a link without a token says so", async () => {
  serve(account(null));
  show(InvitePage, "/invite");
  expect(await screen.findByText(/not whole/)).toBeTruthy();
});

// The account

test("a new key's secret is shown once", async () => {
  const keys: unknown[] = [];
  const sent = serve({
    ...account(ADMIN),
    ...EMPTY,
    "GET /api/keys": () => keys,
    "POST /api/keys": () => {
      keys.push({ ...KEY, revoked: null });
      return { key: KEY, secret: "mk-abcdefghijkl" };
    },
  });
  show(AccountPage, "/account");
  await screen.findByText("There are no keys yet.");
  press("New key");
  type("Name of the key", "laptop");
  type("Requests at once", "two");
  press("Make the key");
  expect(screen.getByLabelText("Requests at once").getAttribute("aria-invalid")).toBe("true");
  type("Requests at once", "2");
  press("Make the key");
  expect(((await screen.findByLabelText("Secret key")) as HTMLInputElement).value).toBe("mk-abcdefghijkl");
  expect(sent.find(({ method }) => method === "POST")).toEqual({
    method: "POST",
    path: "/api/keys",
    body: { name: "laptop", limits: { ...NO_LIMITS, concurrency: 2 } },
    csrf: "token",
  });
  press("Close");
  expect(await screen.findByText("mk-abcdefgh…")).toBeTruthy();
  expect(screen.queryByLabelText("Secret key")).toBeNull();
  expect(document.body.innerHTML).not.toContain("mk-abcdefghijkl");
});

test("a key is revoked when that is confirmed, and a failure leaves it", async () => {
  let revoked: number | null = null;
  let works = false;
  serve({
    ...account(ADMIN),
    ...EMPTY,
    "GET /api/keys": () => [{ ...KEY, revoked }],
    "DELETE /api/keys/k1": () => {
      if (!works) return refuse(503, "busy");
      revoked = 2;
      return undefined;
    },
  });
  show(AccountPage, "/account");
  fireEvent.click(await screen.findByRole("button", { name: "Revoke laptop" }));
  press("Revoke");
  expect(await alert()).toContain("busy");
  works = true;
  press("Revoke");
  expect(await screen.findByText("The key “laptop” is revoked.")).toBeTruthy();
  await waitFor(() => expect(screen.queryByText("mk-abcdefgh…")).toBeNull());
  expect(document.activeElement?.textContent).toBe("API keys");
  fireEvent.click(screen.getByLabelText("Show 1 revoked key"));
  expect(screen.getByText(/^revoked /)).toBeTruthy();
});

test("a wrong old password keeps the session and the form", async () => {
  serve({ ...account(ADMIN), ...EMPTY, "POST /api/account/password": () => refuse(401, "wrong_password") });
  show(AccountPage, "/account");
  await screen.findByLabelText("Old password");
  type("Old password", "wrong horse");
  type("New password", "battery staple");
  press("Change the password");
  expect(await alert()).toBe("The old password is wrong.");
  expect(value("New password")).toBe("battery staple");
  expect(window.location.pathname).toBe("/account");
});

test("one person sees usage alone", async () => {
  const sent = serve({ ...account(ALONE), ...EMPTY });
  show(AccountPage, "/account");
  expect(await screen.findByText(/yours alone/)).toBeTruthy();
  expect(await screen.findByText("Nothing was used in these days.")).toBeTruthy();
  expect(screen.queryByText("API keys")).toBeNull();
  expect(sent.map(({ path }) => path)).toEqual(["/api/account", "/api/usage?days=30"]);
});

test("usage has a chart that says its figures, and a table with the total", async () => {
  const row = { account: "a1", key: null, cached_tokens: 0, reasoning_tokens: 1, cost: 0.25, requests: 2 };
  const today = new Date().toISOString().slice(0, 10);
  serve({
    ...account(ADMIN),
    ...EMPTY,
    "GET /api/usage": () => [
      { ...row, day: today, model: "small", prompt_tokens: 1000, completion_tokens: 500 },
      { ...row, day: today, model: "large", prompt_tokens: 10, completion_tokens: 5 },
    ],
  });
  show(AccountPage, "/account");
  const chart = await screen.findByRole("img");
  expect(chart.getAttribute("aria-label")).toContain("1,515");
  const total = screen.getByRole("row", { name: /^Total/ });
  expect(
    within(total)
      .getAllByRole("cell")
      .map((cell) => cell.textContent),
  ).toEqual(["", "4", "1,010", "0", "505", "2", "$0.50"]);
});

// Administration

const PEOPLE = {
  "GET /api/admin/accounts": () => [ADA, { ...ADA, id: "b2", name: "mia", role: "member", balance: 2 }],
  "GET /api/invitations": () => [],
};

test("members are told that this is not for them, and nothing is asked", async () => {
  const sent = serve(account(MEMBER));
  show(AdminPage, "/admin");
  expect(await screen.findByText(/Only administrators/)).toBeTruthy();
  expect(sent.map(({ path }) => path)).toEqual(["/api/account"]);
});

test("one person has no people and no keys to administer", async () => {
  serve({ ...account(ALONE), "GET /api/models": () => [], "GET /api/admin/usage": () => [] });
  show(AdminPage, "/admin?tab=users");
  const tabs = await screen.findAllByRole("tab");
  expect(tabs.map((tab) => tab.textContent)).toEqual(["Load", "Models", "Usage"]);
});

test("arrows lead from tab to tab, round and round", async () => {
  serve({ ...account(ADMIN), ...PEOPLE, "GET /api/admin/keys": () => [] });
  show(AdminPage, "/admin");
  const people = await screen.findByRole("tab", { name: "People" });
  fireEvent.keyDown(people, { key: "ArrowLeft" });
  const load = screen.getByRole("tab", { name: "Load" });
  expect(load.getAttribute("aria-selected")).toBe("true");
  expect(document.activeElement).toBe(load);
  expect(window.location.search).toBe("?tab=load");
  expect(screen.getByRole("tabpanel").getAttribute("aria-labelledby")).toBe(load.id);
  fireEvent.keyDown(load, { key: "ArrowRight" });
  expect(people.getAttribute("aria-selected")).toBe("true");
  expect(screen.getAllByRole("tab").filter((tab) => tab.tabIndex === 0)).toEqual([people]);
});

test("an edit sends what was changed, and a refusal leaves the form as it is", async () => {
  let works = false;
  const sent = serve({
    ...account(ADMIN),
    ...PEOPLE,
    "PATCH /api/admin/accounts/b2": () =>
      works ? { ...ADA, id: "b2", name: "mia" } : refuse(409, "last_administrator"),
  });
  show(AdminPage, "/admin");
  fireEvent.click(await screen.findByRole("button", { name: "Edit mia" }));
  type("Requests a minute", "30");
  press("Save");
  expect(await alert()).toContain("last administrator");
  expect(value("Requests a minute")).toBe("30");
  works = true;
  press("Save");
  expect(await screen.findByText("Saved: mia")).toBeTruthy();
  expect(sent.filter(({ method }) => method === "PATCH").at(-1)?.body).toEqual({
    limits: { ...NO_LIMITS, requests_per_minute: 30 },
  });
});

test("a reset's link is the invitation page's, with the token behind #", async () => {
  const invitation = { id: "i1", role: "member", account: "b2", created: 1, expires: 2 };
  serve({
    ...account(ADMIN),
    ...PEOPLE,
    "POST /api/admin/accounts/b2/reset": () => ({ invitation, token: "t0ken" }),
  });
  show(AdminPage, "/admin");
  fireEvent.click(await screen.findByRole("button", { name: "Reset link for mia" }));
  press("Make the link");
  const link = (await screen.findByLabelText("Link")) as HTMLInputElement;
  expect(link.value).toBe(`${window.location.origin}/invite#reset=t0ken`);
});

test("what cannot be loaded is told where it would stand, and can be tried again", async () => {
  let works = false;
  serve({
    ...account(ADMIN),
    ...PEOPLE,
    "GET /api/admin/keys": () =>
      works ? [{ ...KEY, revoked: null, account: "b2", account_name: "mia" }] : refuse(500, "x"),
  });
  show(AdminPage, "/admin?tab=keys");
  expect(await alert()).toContain("Refused.");
  works = true;
  press("Try again");
  expect(await screen.findByText("mia")).toBeTruthy();
  expect(screen.queryByRole("alert")).toBeNull();
});

// Programs

test("examples name this server and its default model", async () => {
  const model = { name: "small", default: true, state: "ready" };
  serve({ ...account(ALONE), "GET /api/models": () => [model] });
  const { container } = show(ProgramsPage, "/api");
  await screen.findByText("From a shell");
  const code = [...container.querySelectorAll("pre")].map((pre) => pre.textContent);
  expect(code).toHaveLength(4);
  expect(code[0]).toContain(`curl ${window.location.origin}/v1/chat/completions`);
  expect(code[1]).toContain('model="small"');
});

test("the load is asked for again while it is seen, and older figures stay when the server is gone", async () => {
  vi.useFakeTimers({ shouldAdvanceTime: true });
  const hidden = vi.spyOn(document, "hidden", "get").mockReturnValue(false);
  try {
    let gone = false;
    const load = { running: 7, waiting: 0, slots: 32, queue: 256, uptime_seconds: 61, memory_bytes: 1e6, models: [] };
    const sent = serve({ ...account(ADMIN), "GET /api/admin/load": () => (gone ? Response.error() : load) });
    show(AdminPage, "/admin?tab=load");
    await screen.findByText("of 32 slots");
    const asked = () => sent.filter(({ path }) => path === "/api/admin/load").length;
    expect(asked()).toBe(1);
    await act(() => vi.advanceTimersByTimeAsync(2000));
    expect(asked()).toBe(2);
    hidden.mockReturnValue(true);
    await act(() => vi.advanceTimersByTimeAsync(20_000));
    expect(asked()).toBe(2);
    hidden.mockReturnValue(false);
    gone = true;
    fireEvent(document, new Event("visibilitychange"));
    await screen.findByRole("alert");
    expect(asked()).toBe(3);
    expect(screen.getByText("of 32 slots")).toBeTruthy();
    expect(screen.getByText(/^These figures are from/)).toBeTruthy();
  } finally {
    hidden.mockRestore();
    vi.useRealTimers();
  }
});
