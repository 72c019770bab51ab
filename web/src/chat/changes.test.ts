import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { fakeServer } from "../../test/server";
import { watchChanges } from "./changes";

beforeEach(() => {
  vi.useFakeTimers();
});
afterEach(() => {
  vi.useRealTimers();
  vi.unstubAllGlobals();
});

function watch(id: string | null) {
  const told: string[] = [];
  const stop = watchChanges({
    conversation: () => id,
    onList: () => told.push("list"),
    onConversation: (changed) => told.push(changed),
    onReachable: (reachable) => told.push(reachable ? "there" : "gone"),
  });
  return { told, stop };
}

test("only what changed is told", async () => {
  fakeServer({
    "GET /api/changes": [
      { list: "1", conversation: "a" },
      { list: "1", conversation: "a" },
      { list: "2", conversation: "b" },
    ],
  });
  const { told, stop } = watch("c1");
  await vi.advanceTimersByTimeAsync(0);
  expect(told).toEqual(["there", "c1"]);
  await vi.advanceTimersByTimeAsync(3000);
  expect(told).toEqual(["there", "c1", "there"]);
  await vi.advanceTimersByTimeAsync(3000);
  expect(told.slice(3)).toEqual(["there", "list", "c1"]);
  stop();
  await vi.advanceTimersByTimeAsync(10_000);
  expect(told).toHaveLength(6);
});

test("a server that is gone is told, and asked again", async () => {
  fakeServer({ "GET /api/changes": [new TypeError("offline"), { list: "1", conversation: null }] });
  const { told, stop } = watch(null);
  await vi.advanceTimersByTimeAsync(3000);
  expect(told).toEqual(["gone", "there"]);
  stop();
});
