import { afterEach, describe, expect, test } from "vitest";
import { bytes, compact, duration, elapsed, languageName, money, number, utcDay } from "./format";
import { setLanguage } from "./i18n";

afterEach(() => setLanguage("en"));

describe("money", () => {
  test.each([
    [12.5, "USD", "$12.50"],
    [0.0418604, "USD", "$0.0419"],
    [0.000012, "USD", "$0.000012"],
    [-3, "CNY", "-¥3.00"],
    [1234.567, null, "1,234.57"],
  ])("%s %s is %s", (amount, currency, text) => expect(money(amount, currency)).toBe(text));
});

test("figures are short where they have to be, in each language's own way", () => {
  expect(compact(251_700)).toBe("251.7K");
  setLanguage("zh");
  expect(compact(251_700)).toBe("25.2万");
  expect(number(1234567)).toBe("1,234,567");
});

test.each([
  [0, "0 bytes"],
  [999, "999 bytes"],
  [61_000_000, "61 MB"],
  [2_540_000_000, "2.5 GB"],
  [9e15, "9,000 TB"],
])("%d bytes are %s", (n, text) => expect(bytes(n)).toBe(text));

test.each([
  [0, "0 sec"],
  [0.4, "0 sec"],
  [59.9, "59 sec"],
  [60, "1 min"],
  [291, "4 min 51 sec"],
  [3600, "1 hr"],
  [3_601, "1 hr"],
  [273_600, "3 days 4 hr"],
])("%d seconds are %s", (seconds, text) => expect(duration(seconds)).toBe(text));

test("a day of usage is the same day wherever it is read", () => {
  const zone = process.env.TZ;
  process.env.TZ = "America/Los_Angeles";
  try {
    expect(utcDay("2026-11-25")).toBe("Nov 25, 2026");
  } finally {
    if (zone === undefined) delete process.env.TZ;
    else process.env.TZ = zone;
  }
});

test("languages have names, and what is none stays as it is", () => {
  expect(languageName("zh")).toBe("Chinese");
  expect(languageName("not a tag")).toBe("not a tag");
});

test.each([
  [0.04, "0 sec"],
  [2.54, "2.5 sec"],
  [12.3, "12 sec"],
  [125, "2 min 5 sec"],
  [7260, "2 hr 1 min"],
])("%f seconds are %s", (seconds, text) => {
  setLanguage("en");
  expect(elapsed(seconds)).toBe(text);
});

test("in Chinese", () => {
  setLanguage("zh");
  expect(elapsed(12)).toBe("12秒");
});
