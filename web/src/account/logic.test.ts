import { describe as about, expect, test } from "vitest";
import { ApiError, Unreachable } from "../api/client";
import { en } from "../i18n/en";
import { zh } from "../i18n/zh";
import { changes, readBalance } from "./admin/EditAccount";
import { path } from "./admin/LiveChart";
import { examples } from "./examples";
import { describe } from "./failures";
import { readLink, writeLink } from "./invitation";
import { limitTexts, readLimit, readLimits } from "./limits";
import { safeNext } from "./next";
import { isPasswordLong } from "./password";
import { ADA } from "./testing";
import { byDay, group, sum, type UsageRow } from "./usage";

about("where signing in leads", () => {
  const to = (next: string) => safeNext(`?next=${encodeURIComponent(next)}`, "https://millet.example");

  test.each(["/", "/c/1?x=2#end", "/account"])("%s is a page here", (next) => expect(to(next)).toBe(next));

  test.each([
    "//evil.example/account",
    "/.//evil.example/account",
    "/\\evil.example/",
    "https://evil.example/",
    "https://millet.example/account",
    "javascript:alert(1)",
    "\t//evil.example",
    "/\t/evil.example",
    "account",
    "",
    "/login?next=/",
    "/invite",
  ])("%j is not", (next) => expect(to(next)).toBe("/"));

  test("nothing said is home", () => expect(safeNext("", "https://millet.example")).toBe("/"));
});

about("links that let somebody in", () => {
  test.each([true, false])("are read as they were written (reset: %s)", (reset) => {
    const link = writeLink("https://millet.example", { token: "a-b_c", reset });
    expect(readLink(new URL(link).hash)).toEqual({ token: "a-b_c", reset });
    expect(new URL(link).search).toBe("");
  });

  test.each(["", "#", "#reset="])("%j is none", (fragment) => expect(readLink(fragment)).toBeNull());
});

about("limits", () => {
  test.each([
    ["concurrency", " 4 ", 4],
    ["tokens_per_minute", "0", 0],
    ["spend_per_day", "2.50", 2.5],
    ["spend_per_day", "", null],
  ] as const)("%s %j is %s", (name, text, value) => expect(readLimit(name, text)).toEqual({ value }));

  test.each([
    ["concurrency", "1.5"],
    ["concurrency", "-1"],
    ["concurrency", "four"],
    ["concurrency", "1e3"],
    ["concurrency", "9999999999"],
    ["spend_per_day", "1,5"],
    ["spend_per_day", "Infinity"],
  ] as const)("%s %j is none", (name, text) => expect(readLimit(name, text)).toBeNull());

  test("one that is wrong spoils all", () => {
    expect(readLimits({ ...limitTexts(), concurrency: "x" })).toBeNull();
    const limits = { ...ADA.limits, concurrency: 3, spend_per_day: 0.5 };
    expect(readLimits(limitTexts(limits))).toEqual(limits);
  });
});

about("changes of an account", () => {
  const draft = { role: ADA.role, disabled: false, limits: ADA.limits, balance: null };

  test("nothing changed sends nothing", () =>
    expect(changes(ADA, { ...draft, limits: { ...ADA.limits } })).toEqual({}));

  test("a balance is sent where it was changed, taken away too", () => {
    expect(changes(ADA, { ...draft, balance: 5 })).toEqual({ balance: 5 });
    expect(changes({ ...ADA, balance: 5 }, draft)).toEqual({ balance: null });
    expect(changes({ ...ADA, balance: 5 }, { ...draft, balance: 5, disabled: true })).toEqual({ disabled: true });
  });

  test("limits go together", () => {
    const limits = { ...ADA.limits, concurrency: 2 };
    expect(changes(ADA, { ...draft, limits })).toEqual({ limits });
  });

  test.each([
    ["-0.25", -0.25],
    ["1e-7", 1e-7],
    [" ", null],
  ])("a balance of %j", (text, value) => expect(readBalance(text)).toEqual({ value }));

  test.each(["1,5", "NaN", "1e400", "0x10"])("%j is no balance", (text) => expect(readBalance(text)).toBeNull());
});

about("failures", () => {
  test("what the server has a code for is told in the reader's language", () => {
    expect(describe(new ApiError(409, "name_taken", "this name is taken"), zh)).toBe(zh.admin.failures.name_taken);
    expect(describe(new Unreachable(), zh)).toBe(zh.admin.failures.unreachable);
  });

  test("how long to wait is told", () => {
    const error = new ApiError(429, "too_many_attempts", "too many", 90);
    expect(describe(error, en)).toContain("1 min 30 sec");
  });

  test("what it has none for is told as it said it", () => {
    expect(describe(new ApiError(409, null, "an account has 100 keys at most"), en)).toBe(
      "An account has 100 keys at most.",
    );
    expect(describe(new ApiError(500, "toString", "a bug"), en)).toBe("A bug.");
  });
});

test("a password's length is counted in characters", () => {
  expect(isPasswordLong("🌾".repeat(7))).toBe(false);
  expect(isPasswordLong("🌾".repeat(8))).toBe(true);
  expect(isPasswordLong("🌾".repeat(1024))).toBe(true);
  expect(isPasswordLong("x".repeat(1025))).toBe(false);
});

about("usage", () => {
  const row = (day: string, model: string, rest: Partial<UsageRow> = {}): UsageRow => ({
    account: "a1",
    day,
    model,
    key: null,
    requests: 1,
    prompt_tokens: 10,
    cached_tokens: 4,
    completion_tokens: 5,
    reasoning_tokens: 2,
    cost: 0.5,
    ...rest,
  });
  const rows = [
    row("2026-11-25", "small"),
    row("2026-11-25", "small", { key: "k1", account: "b2", prompt_tokens: 100 }),
    row("2026-11-23", "large"),
  ];

  test("of a day and a model is one row, the days in order", () => {
    expect(group(rows, "day").map(({ row, sums }) => [row.day, row.model, sums.requests, sums.prompt_tokens])).toEqual([
      ["2026-11-25", "small", 2, 110],
      ["2026-11-23", "large", 1, 10],
    ]);
  });

  test("of accounts has the largest first", () => {
    expect(group(rows, "account").map(({ id, sums }) => [id, sums.cost])).toEqual([
      ["b2", 0.5],
      ["a1", 1],
    ]);
    expect(group(rows, "key").map(({ row }) => row.key)).toEqual(["k1", null]);
  });

  test("is summed up", () => {
    const all = { prompt_tokens: 120, cached_tokens: 12, completion_tokens: 15, reasoning_tokens: 6, requests: 3 };
    expect(sum(rows)).toEqual({ ...all, cost: 1.5 });
    expect(sum([]).cost).toBe(0);
  });

  test("of days without any is nothing, and days before the period are left out", () => {
    const now = Date.parse("2026-11-25T23:59:00Z");
    expect(byDay(rows, 2, now)).toEqual([
      { day: "2026-11-24", read: 0, written: 0, cost: 0 },
      { day: "2026-11-25", read: 110, written: 10, cost: 1 },
    ]);
  });
});

test("a line breaks where the page was hidden", () => {
  const sample = (at: number, speed: number) => ({ at, speed, running: 0 });
  const line = path([sample(0, 0), sample(2000, 50), sample(100_000, 100)], "speed", 100_000, 100);
  expect(line).toBe("M0.0 100.0 L20.0 50.0 M1000.0 0.0");
});

about("examples", () => {
  const given = { base: "http://h:1", model: 'it\'s "m"', key: null, question: "15 + 8?" };

  test("names with quotes stay one word of the shell and one string of Python", () => {
    const { shell, openai } = examples(given);
    expect(shell).toContain(`-d '{"model": "it'\\''s \\"m\\""`);
    expect(openai).toContain('model="it\'s \\"m\\"",');
  });

  test("the key is asked for where there are keys", () => {
    expect(examples(given).shell).not.toContain("Authorization");
    expect(examples(given).openai).toContain('api_key="none"');
    expect(examples({ ...given, key: "mk-..." }).shell).toContain("Authorization: Bearer mk-...");
  });
});
