import { cleanup, render } from "@testing-library/react";
import { afterEach, beforeAll, expect, test } from "vitest";
import { expectSafe } from "../../test/safe";
import { until } from "../../test/until";
import corpus from "../../test/xss.json";
import { prepare } from "./highlight";
import { loadKatex } from "./katex";
import { Markdown } from "./Markdown";

beforeAll(async () => {
  // KaTeX draws only in documents with a doctype, which this DOM's document lacks.
  Object.defineProperty(document, "compatMode", { value: "CSS1Compat", configurable: true });
  await loadKatex();
  await prepare(["html", "js", "xml"]);
});
afterEach(cleanup);

const harmed = () => "harmed" in globalThis || "harmed" in window;

test.each(corpus)("$name, whole", async ({ text }) => {
  const { container } = render(<Markdown text={text} />);
  expectSafe(container);
  await until(() => expect(container.querySelector(".md")).not.toBeNull());
  expectSafe(container);
  expect(harmed()).toBe(false);
});

test.each(corpus)("$name, in pieces", ({ text }) => {
  const { container, rerender } = render(<Markdown text="" streaming />);
  for (let end = 1; end < text.length; end += 1 + (end % 7)) {
    rerender(<Markdown text={text.slice(0, end)} streaming />);
    expectSafe(container);
  }
  rerender(<Markdown text={text} />);
  expectSafe(container);
  expect(harmed()).toBe(false);
});

test("the whole corpus as one reply, with formulas and code drawn", async () => {
  const text = corpus.map((each) => each.text).join("\n\n\\(x^2\\)\n\n```html\n<b>x</b>\n```\n\n");
  const { container } = render(<Markdown text={text} />);
  await until(() => expect(container.textContent).toContain(corpus.at(-1)?.text.slice(2)));
  await until(() => expect(container.querySelector(".hljs-tag")).not.toBeNull());
  expect(container.querySelector(".katex")).not.toBeNull();
  expectSafe(container);
  expect(harmed()).toBe(false);
}, 60_000);

test("the check itself finds harm", () => {
  const root = document.createElement("div");
  for (const html of [
    "<script></script>",
    "<p onclick='x'></p>",
    "<a href='javascript:x'></a>",
    "<p id='root'></p>",
    "<img>",
  ]) {
    root.innerHTML = html;
    expect(() => expectSafe(root)).toThrow();
  }
});
