import { screen, waitFor } from "@testing-library/react";
import { expect, test } from "vitest";
import InvitePage from "./InvitePage";
import { ADMIN, account, alert, press, refuse, serve, show, type, value } from "./testing";

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
