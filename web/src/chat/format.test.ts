import { afterEach, expect, test } from "vitest";
import { setLanguage } from "../i18n";
import { bytes, duration } from "./format";

afterEach(() => setLanguage("en"));

test.each([
  [0.04, "0 sec"],
  [2.54, "2.5 sec"],
  [12.3, "12 sec"],
  [125, "2 min 5 sec"],
  [7260, "2 hr 1 min"],
])("%f seconds are %s", (seconds, text) => {
  setLanguage("en");
  expect(duration(seconds)).toBe(text);
});

test("in Chinese", () => {
  setLanguage("zh");
  expect(duration(12)).toBe("12秒");
});

test.each([
  [0, "0 bytes"],
  [999, "999 bytes"],
  [12_345, "12 kB"],
  [103_600_000, "103.6 MB"],
])("%d bytes are %s", (size, text) => {
  setLanguage("en");
  expect(bytes(size)).toBe(text);
});
