import { fireEvent, screen, waitFor, within } from "@testing-library/react";
import { expect, test } from "vitest";
import { openConversation } from "../chat/conversation";
import { keepDraft, keptDraft } from "../chat/drafts";
import { list } from "../chat/list";
import AccountPage from "./AccountPage";
import { ADMIN, ALONE, account, alert, KEY, NO_LIMITS, press, refuse, serve, show, type, value } from "./testing";

const EMPTY = { "GET /api/usage": () => [], "GET /api/keys": () => [] };

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

test("usage by key has the keys' names, and a place for what came without one", async () => {
  const row = { account: "a1", model: "small", cached_tokens: 0, reasoning_tokens: 0, cost: 0, requests: 1 };
  const day = new Date().toISOString().slice(0, 10);
  serve({
    ...account(ADMIN),
    "GET /api/keys": () => [{ ...KEY, revoked: 2 }],
    "GET /api/usage": () => [
      { ...row, day, key: "k1", prompt_tokens: 20, completion_tokens: 5 },
      { ...row, day, key: null, prompt_tokens: 10, completion_tokens: 5 },
    ],
  });
  show(AccountPage, "/account");
  fireEvent.change(await screen.findByLabelText("Group by"), { target: { value: "key" } });
  const names = () => screen.getAllByRole("rowheader").map((cell) => cell.textContent);
  await waitFor(() => expect(names()).toEqual(["laptop", "Web app", "Total"]));
});

test("who signs out leaves nothing for the next person", async () => {
  serve({ ...account(ADMIN), ...EMPTY, "POST /api/logout": () => undefined });
  list.setState({ query: "secret", hits: [], conversations: [{ id: "c", title: "secret", created: 0, updated: 0 }] });
  keepDraft("c", { text: "secret", attachments: [{ name: "a", text: "secret" }] });
  const before = openConversation("c");
  show(AccountPage, "/account");
  fireEvent.click(await screen.findByRole("button", { name: "Sign out" }));
  await waitFor(() => expect(window.location.pathname).toBe("/login"));
  expect(list.getState()).toMatchObject({ query: null, conversations: [], loaded: false });
  expect(keptDraft("c")).toEqual({ text: "", attachments: [] });
  expect(openConversation("c")).not.toBe(before);
});
