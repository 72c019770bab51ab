import { expect, test } from "vitest";
import { message } from "../../test/message";
import type { Message } from "../api/types";
import { branches, choose, chooseNewest, merged } from "./tree";

const ids = (messages: readonly Message[]) => messages.map((each) => each.id).join(" ");

const TREE = [
  message("q", null),
  message("a1", "q"),
  message("a2", "q"),
  message("r1", "a1"),
  message("r2", "a2"),
  message("edited", null),
];

test("the newest branch is shown where none was chosen", () => {
  expect(ids(branches(TREE, new Map()).path)).toBe("edited");
  expect(ids(branches(TREE.slice(0, 5), new Map()).path)).toBe("q a2 r2");
});

test("a chosen version leads to its own branch, and versions know their siblings", () => {
  let choices = choose(new Map(), TREE[0] as Message);
  choices = choose(choices, TREE[1] as Message);
  const found = branches(TREE, choices);
  expect(ids(found.path)).toBe("q a1 r1");
  expect(ids(found.versions(TREE[2] as Message))).toBe("a1 a2");
  expect(ids(found.versions(TREE[0] as Message))).toBe("q edited");
  expect(ids(branches(TREE, chooseNewest(choices, "q")).path)).toBe("q a2 r2");
});

test("a choice of a message that is gone is none", () => {
  expect(ids(branches(TREE, new Map([["", "gone"]])).path)).toBe("edited");
});

test("no messages, no path", () => {
  expect(branches([], new Map()).path).toEqual([]);
});

test("a reload keeps the objects that did not change", () => {
  const found = TREE.map((each) => ({ ...each }));
  (found[1] as Message).content = "grown";
  const after = merged(TREE, found);
  expect(after[0]).toBe(TREE[0]);
  expect(after[1]).toBe(found[1]);
  expect(after).toHaveLength(TREE.length);
});
