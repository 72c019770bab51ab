import { act, fireEvent, screen, waitFor } from "@testing-library/react";
import { expect, test, vi } from "vitest";
import LoginPage from "./LoginPage";
import { ADMIN, account, alert, press, refuse, serve, show, type, value } from "./testing";

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
