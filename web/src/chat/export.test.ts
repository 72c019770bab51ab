import { expect, test } from "vitest";
import { fileName } from "./export";

test.each([
  ["Trains: 9:40 / 13:05?", "Trains 9 40 13 05"],
  ["../../etc/passwd", "etc passwd"],
  ["天气怎么样？", "天气怎么样？"],
  ["evil\u202egnp.exe", "evil gnp.exe"],
  ["...", "conversation"],
  ["😀".repeat(100), "😀".repeat(80)],
])("a file of %s is called %s", (title, name) => {
  expect(fileName(title)).toBe(name);
});
