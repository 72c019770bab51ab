import { act, fireEvent, screen } from "@testing-library/react";
import { expect, test, vi } from "vitest";
import AdminPage from "./AdminPage";
import {
  ADA,
  ADMIN,
  ALONE,
  account,
  alert,
  KEY,
  MEMBER,
  NO_LIMITS,
  press,
  refuse,
  serve,
  show,
  type,
  value,
} from "./testing";

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

test("the load is asked for again while it is seen, and older figures stay when the server is gone", async () => {
  vi.useFakeTimers(); // time stands still but for what is passed here, so that each request can be counted
  const pass = (milliseconds: number) => act(() => vi.advanceTimersByTimeAsync(milliseconds));
  const hidden = vi.spyOn(document, "hidden", "get").mockReturnValue(false);
  try {
    let gone = false;
    const load = { running: 7, waiting: 0, slots: 32, queue: 256, uptime_seconds: 61, memory_bytes: 1e6, models: [] };
    const sent = serve({ ...account(ADMIN), "GET /api/admin/load": () => (gone ? Response.error() : load) });
    show(AdminPage, "/admin?tab=load");
    await pass(0);
    expect(screen.getByText("of 32 slots")).toBeTruthy();
    const asked = () => sent.filter(({ path }) => path === "/api/admin/load").length;
    expect(asked()).toBe(1);
    await pass(2000);
    expect(asked()).toBe(2);
    hidden.mockReturnValue(true);
    await pass(20_000);
    expect(asked()).toBe(2);
    hidden.mockReturnValue(false);
    gone = true;
    fireEvent(document, new Event("visibilitychange"));
    await pass(0);
    expect(screen.getByRole("alert")).toBeTruthy();
    expect(asked()).toBe(3);
    expect(screen.getByText("of 32 slots")).toBeTruthy();
    expect(screen.getByText(/^These figures are from/)).toBeTruthy();
  } finally {
    hidden.mockRestore();
    vi.useRealTimers();
  }
});
