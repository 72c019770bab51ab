import { expect, test } from "vitest";
import { mend } from "./mend";

const mended = (source: string) => mend(source).source;

test.each([
  ["plain text", "plain text"],
  ["some **bold", "some **bold**"],
  ["some **bold ", "some **bold** "],
  ["some **", "some "],
  ["some **bold*", "some **bold**"],
  ["**x *y*", "**x *y***"],
  ["some **bold** and", "some **bold** and"],
  ["an *em", "an *em*"],
  ["**a *b", "**a *b***"],
  ["2 * 3 = 6", "2 * 3 = 6"],
  ["2*3", "2*3"],
  ["snake_case_name", "snake_case_name"],
  ["a `code **x", "a `code **x`"],
  ["a `code` b", "a `code` b"],
  ["~~gone", "~~gone~~"],
  ["[text](https://exa", "[text]()"],
  ["[text](https://example.com) b", "[text](https://example.com) b"],
  ["![alt](https://exa", "![alt]()"],
  ["- one\n- **two", "- one\n- **two**"],
  ["- **one\n- two", "- **one\n- two"],
  ["text\n-", "text\n"],
  ["text\n--", "text\n"],
  ["text\n1", "text\n"],
  ["text\n```py", "text\n```py"],
  ["text\n| a | b", "text\n"],
  ["| a | b |\n|--", ""],
  ["| a | b |\n|---|---|\n| 1 | **x", "| a | b |\n|---|---|\n| 1 | **x**"],
  ["costs $5", "costs $5"],
  ["- a\n  ```js\n  x **y", "- a\n  ```js\n  x **y"],
  ["- a\n  ```js\n  x\n  ```\n  **y", "- a\n  ```js\n  x\n  ```\n  **y**"],
])("%j becomes %j", (source, expected) => {
  expect(mended(source)).toBe(expected);
});

test("an unfinished formula is closed and marked", () => {
  expect(mend("so \\(\\frac{a")).toEqual({ source: "so \\(\\frac{a\\)", unfinished: 14 });
  expect(mend("so \\(\\frac{a}\\")).toEqual({ source: "so \\(\\frac{a}\\)", unfinished: 15 });
  expect(mend("so \\(x\\) and").unfinished).toBeNull();
  expect(mend("so $$x").unfinished).toBe(8);
  expect(mend("so **$$x")).toEqual({ source: "so **$$x$$**", unfinished: 10 });
  expect(mended("so \\(")).toBe("so ");
});

test("what is mended stays close to what will be there", () => {
  const text = "A **bold *and* so** [link](https://example.com/a_b) `x` then ~~del~~ \\(x_1\\) end.";
  for (let at = 1; at <= text.length; at++) {
    const source = mended(text.slice(0, at));
    expect(source.split("`").length % 2).toBe(1);
    expect((source.match(/\*/g) ?? []).length % 2).toBe(0);
  }
});
