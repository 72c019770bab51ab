import { afterEach, expect, test } from "vitest";
import { ApiError, Unreachable } from "../api/client";
import { setLanguage } from "../i18n";
import { reason } from "./failures";

afterEach(() => setLanguage("en"));

test("what the server refuses is told in the reader's language, as far as its code is known", () => {
  const full = new ApiError(503, "queue_full", "256 requests wait, which is the limit");
  setLanguage("en");
  expect(reason(full)).toMatch(/^Too many people/);
  setLanguage("zh");
  expect(reason(full)).toMatch(/^等待的人太多/);
  expect(reason(new Unreachable())).toMatch(/服务器/);
  expect(reason(new ApiError(422, null, "think is 'maybe'"))).toBe("think is 'maybe'");
  expect(reason(new ApiError(422, "constructor", "no such code"))).toBe("no such code");
});
