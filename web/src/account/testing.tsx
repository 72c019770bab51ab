/** What tests of these pages share: a server that answers as it is told, and a page at an address. */

import { cleanup, fireEvent, render, screen } from "@testing-library/react";
import type { ComponentType } from "react";
import { afterEach, vi } from "vitest";
import { setCsrf } from "../api/client";
import type { Account, Me } from "../api/types";
import { LANGUAGES, type Language, setLanguage, TextsContext } from "../i18n";
import { SessionProvider } from "../session";

export const NO_LIMITS = { concurrency: null, requests_per_minute: null, tokens_per_minute: null, spend_per_day: null };

export const ADA: Account = {
  id: "a1",
  name: "ada",
  role: "admin",
  disabled: false,
  limits: NO_LIMITS,
  balance: null,
  created: 1_790_000_000,
};

export const ADMIN: Me = { account: ADA, role: "admin", one_person: false, csrf: "token", currency: "USD" };
export const MEMBER: Me = { ...ADMIN, account: { ...ADA, role: "member" }, role: "member" };
export const ALONE: Me = { account: null, role: "admin", one_person: true, csrf: null, currency: null };

export const KEY = { id: "k1", name: "laptop", prefix: "mk-abcdefgh", limits: NO_LIMITS, created: 1, last_used: null };

export interface Sent {
  method: string;
  path: string;
  body: unknown;
  csrf: string | null;
}

/** A status other than 200. */
export function refuse(
  status: number,
  code: string,
  headers: Record<string, string> = {},
  message = "refused",
): Response {
  return Response.json({ error: { message, code } }, { status, headers });
}

type Answer = (sent: Sent) => unknown;

/** answers: by method and path, queries left out; what they return becomes JSON unless it is a response. */
export function serve(answers: Record<string, Answer>): Sent[] {
  const requests: Sent[] = [];
  vi.stubGlobal("fetch", async (path: string, init: RequestInit = {}) => {
    const method = init.method ?? "GET";
    const body = typeof init.body === "string" ? JSON.parse(init.body) : null;
    const sent = { method, path, body, csrf: new Headers(init.headers).get("X-CSRF-Token") };
    requests.push(sent);
    const answer = answers[`${method} ${path.replace(/\?.*/, "")}`];
    if (answer === undefined) return refuse(404, "not_faked", {}, `${method} ${path}`);
    const answered = answer(sent);
    if (answered instanceof Response) return answered;
    return answered === undefined ? new Response(null, { status: 204 }) : Response.json(answered);
  });
  return requests;
}

/** me: null where nobody is signed in. */
export function account(me: Me | null): Record<string, Answer> {
  return { "GET /api/account": () => me ?? refuse(401, "not_signed_in") };
}

export function show(Page: ComponentType, address: string, language: Language = "en") {
  window.history.replaceState(null, "", address);
  setLanguage(language);
  return render(
    <TextsContext value={LANGUAGES[language].texts}>
      <SessionProvider fallback={() => "gone"}>
        <Page />
      </SessionProvider>
    </TextsContext>,
  );
}

export const type = (label: string, value: string) =>
  fireEvent.change(screen.getByLabelText(label), { target: { value } });
export const press = (name: string | RegExp) => fireEvent.click(screen.getByRole("button", { name }));
export const value = (label: string) => (screen.getByLabelText(label) as HTMLInputElement).value;
export const alert = async () => (await screen.findByRole("alert")).textContent;

afterEach(() => {
  cleanup();
  vi.unstubAllGlobals();
  setCsrf(null);
  setLanguage("en");
});
