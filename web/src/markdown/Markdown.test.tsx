import { act, cleanup, fireEvent, render, screen } from "@testing-library/react";
import { afterEach, beforeAll, beforeEach, expect, test, vi } from "vitest";
import { until } from "../../test/until";
import { LIMIT } from "./blocks";
import { loadKatex } from "./katex";
import { Markdown } from "./Markdown";

const work = vi.hoisted(() => ({ parsed: 0, drawn: 0 }));
vi.mock("./parse", async (original) => {
  const { parse } = await original<typeof import("./parse")>();
  return {
    parse: (source: string) => {
      work.parsed += source.length;
      return parse(source);
    },
  };
});
vi.mock("./katexRender", async (original) => {
  const katex = await original<typeof import("./katexRender")>();
  return {
    ...katex,
    render: (...args: Parameters<typeof katex.render>) => {
      work.drawn++;
      return katex.render(...args);
    },
  };
});

beforeAll(() => {
  // KaTeX draws only in documents with a doctype, which this DOM's document lacks.
  Object.defineProperty(document, "compatMode", { value: "CSS1Compat", configurable: true });
});
beforeEach(() => {
  work.parsed = 0;
  work.drawn = 0;
});
afterEach(() => {
  cleanup();
  vi.useRealTimers();
});

const shown = (text: string, streaming = false) =>
  render(<Markdown text={text} streaming={streaming} />).container.querySelector(".md") as Element;
const htmlOf = (text: string) => shown(text).innerHTML.replaceAll(' dir="auto"', "");

test.each([
  ["# A *b*", '<h3 class="md-h1">A <em>b</em></h3>'],
  ["a **b** ~~c~~ ~d~ `e`", '<p>a <strong>b</strong> <del>c</del> ~d~ <code dir="ltr">e</code></p>'],
  ["7*8=56, 56*9 and (1+2)*3*(4-1)", "<p>7*8=56, 56*9 and (1+2)*3*(4-1)</p>"],
  ["a*b*c 2*b*3 4**5**6", "<p>a<em>b</em>c 2<em>b</em>3 4<strong>5</strong>6</p>"],
  ["a <b>b</b> &amp;<br>c", "<p>a &lt;b&gt;b&lt;/b&gt; &amp;<br>c</p>"],
  ["    indented", "<p>indented</p>"],
  ["- a\n- b\n\nc", "<ul><li>a</li><li>b</li></ul><p>c</p>"],
  ["3. a\n4. b", '<ol start="3"><li>a</li><li>b</li></ol>'],
  ["a  \nb\n\n---", "<p>a<br>b</p><hr>"],
  ["> a\n> > b", "<blockquote><p>a</p><blockquote><p>b</p></blockquote></blockquote>"],
  ["![alt](javascript:x) [a](relative)", "<p>alt a</p>"],
  ["costs $5 and $6, US$5", "<p>costs $5 and $6, US$5</p>"],
  ["[^1]", "<p>[^1]</p>"],
])("%j", (text, html) => {
  expect(htmlOf(text)).toBe(html);
});

test("links open elsewhere, images are links", () => {
  shown("https://example.com/a [b](mailto:c@example.com) ![d](https://example.com/d.png)");
  const links = screen.getAllByRole("link");
  expect(links.map((link) => [link.textContent, link.getAttribute("href")])).toEqual([
    ["https://example.com/a", "https://example.com/a"],
    ["b", "mailto:c@example.com"],
    ["d", "https://example.com/d.png"],
  ]);
  for (const link of links) {
    expect(link.getAttribute("rel")).toBe("noopener noreferrer nofollow");
    expect(link.getAttribute("target")).toBe("_blank");
  }
});

test("tables and tasks", () => {
  const md = shown("| a | b |\n|--:|---|\n| 1 | **2** |\n\n- [x] done\n- [ ] open");
  expect(md.querySelectorAll("table th, table td")).toHaveLength(4);
  expect(md.querySelector("th")?.getAttribute("data-align")).toBe("right");
  expect(Array.from(md.querySelectorAll("input"), (box) => box.checked)).toEqual([true, false]);
});

test("formulas of every kind are drawn, and what is none stays", async () => {
  await loadKatex();
  const md = shown(
    "a $x$ \\(y\\) $$z$$ `$n$` \\$m\\$\n\n$$\nu\n$$\n\n\\[ v \\]\n\n- w:\n  \\[\n  1\n  - 2\n  \\]\n\n> $$\n> q\n> $$",
  );
  await until(() => expect(md.querySelectorAll(".katex")).toHaveLength(7));
  const sources = Array.from(md.querySelectorAll("annotation"), (each) => each.textContent);
  expect(sources).toEqual(["x", "y", "z", "u", "v", "1\n- 2", "q"]);
  expect(md.querySelectorAll(".katex-display")).toHaveLength(5);
  expect(md.querySelector("code")?.textContent).toBe("$n$");
});

test("a formula that KaTeX does not understand shows its source", async () => {
  await loadKatex();
  const md = shown("\\(\\unknowncommand{x\\)");
  await until(() => expect(md.querySelector(".md-math")?.textContent).toBe("\\unknowncommand{x"));
});

test("formulas and code that would nest without end, or define commands, stay plain", async () => {
  await loadKatex();
  const deepest = (element: Element): number => 1 + Math.max(0, ...Array.from(element.children, deepest));
  for (const tex of [
    `${"\\sqrt{".repeat(240)}x${"}".repeat(240)}`,
    `x${"^{x".repeat(300)}${"}".repeat(300)}`,
    "\\def\\a{x}\\a",
  ]) {
    const md = shown(`$$\n${tex}\n$$`);
    await until(() => expect(md.querySelector(".md-math")?.textContent).toBe(tex));
    expect(deepest(md)).toBeLessThan(300);
    cleanup();
  }
  const code = "`${".repeat(6000);
  const md = shown(`\`\`\`\`js\n${code}\n\`\`\`\`\n`);
  await until(() => expect(md.querySelector(".hljs-string")).not.toBeNull());
  expect(md.querySelector("pre")?.textContent).toBe(`${code}\n`);
  expect(deepest(md)).toBeLessThan(60);
});

test("code is coloured once it is whole, and copied without its fences", async () => {
  const writeText = vi.fn(async () => {});
  vi.stubGlobal("navigator", { clipboard: { writeText } });
  const { container, rerender } = render(<Markdown text={"```python\ndef f():"} streaming />);
  expect(container.querySelector("figcaption span")?.textContent).toBe("python");
  rerender(<Markdown text={"```python\ndef f():\n    pass\n```\n"} streaming />);
  await until(() => expect(container.querySelector(".hljs-keyword")?.textContent).toBe("def"));
  expect(container.querySelector("pre")?.textContent).toBe("def f():\n    pass\n");
  fireEvent.click(screen.getByRole("button"));
  expect(writeText).toHaveBeenCalledWith("def f():\n    pass\n");
  await screen.findByText("Copied");
  vi.unstubAllGlobals();
});

test("long code is coloured once all of it is drawn", async () => {
  const first = shown("```js\nlet a;\n```\n");
  await until(() => expect(first.querySelector(".hljs-keyword")).not.toBeNull());
  cleanup();
  const code = "let a = 1;\n".repeat(1500);
  const md = shown(`\`\`\`js\n${code}\`\`\`\n`);
  await until(() => expect(md.querySelector(".hljs-keyword")).not.toBeNull());
  expect(md.querySelector("pre")?.textContent).toBe(code);
});

test("code in a list item loses the item's indentation only", () => {
  const md = shown("1. a\n   ```\n   x\n     y\n   ```\n2. b\n\n  ```\n  x\n    y\n  ```");
  expect(Array.from(md.querySelectorAll("pre"), (pre) => pre.textContent)).toEqual(["x\n  y", "x\n  y"]);
});

const LENGTH = 80_000;
const fill = (line: (n: number) => string) => {
  let text = "";
  for (let n = 1; text.length < LENGTH; n++) text += line(n);
  return text;
};
const FORMS: Record<string, string> = {
  code: `\`\`\`js\n${fill((n) => `const value${n} = ${n};\n`)}`,
  "code without line ends": `\`\`\`\n${fill(() => "0123456789abcdef")}`,
  list: fill((n) => `${n}. item with **bold** text\n`),
  "loose list": fill(() => "- item with `code`\n\n  more of it\n\n"),
  "list of one item": `- ${fill(() => "many words and more ")}`,
  table: `| a | b | c |\n|---|---|---|\n${fill((n) => `| ${n} | **b** | c |\n`)}`,
  paragraph: fill((n) => `Sentence ${n} has *some* words. `),
  "paragraph without spaces": fill(() => "没有空格的文字"),
  formulas: fill((n) => `So \\(x_{${n}} = ${n}\\) and\n\n$$\ny^{${n}}\n$$\n\n`),
  "formulas in a line": fill((n) => `so \\(x_{${n}}\\) and `),
  quotes: fill((n) => `${"> ".repeat(1 + (n % 5))}quoted text\n`),
  "open formula": `$$\n${fill(() => "x + y +\n")}`,
};

test.each(Object.entries(FORMS))(
  "the work of an update does not grow with the text: %s",
  async (_, whole) => {
    await loadKatex();
    const text = whole.slice(0, LENGTH);
    let at = LENGTH - 1500;
    vi.useFakeTimers();
    const { rerender } = render(<Markdown text={text.slice(0, at)} streaming />);
    // A text that is long at once is drawn in steps.
    while (vi.getTimerCount()) act(() => vi.runOnlyPendingTimers());
    const steps: { parsed: number; drawn: number }[] = [];
    while (at < LENGTH) {
      at = Math.min(LENGTH, at + 47);
      work.parsed = 0;
      work.drawn = 0;
      rerender(<Markdown text={text.slice(0, at)} streaming />);
      steps.push({ ...work });
    }
    // The open block, with marks that close what is open, and the one that it was divided from; a table's head.
    expect(Math.max(...steps.map(({ parsed }) => parsed))).toBeLessThanOrEqual(2 * LIMIT + 100);
    expect(Math.max(...steps.map(({ drawn }) => drawn))).toBeLessThanOrEqual(10);
  },
  60_000,
);

test("what is meant to harm the parser is bounded", () => {
  for (const piece of [
    "[",
    "](",
    "![",
    "> ",
    "- ",
    "**",
    "*a **b ",
    "`",
    "$",
    "\\(",
    "\\[\n",
    "<",
    "&",
    "|",
    "~~",
    "_",
  ]) {
    work.parsed = 0;
    const { container, unmount } = render(<Markdown text={piece.repeat(10_000)} />);
    expect(work.parsed).toBeLessThanOrEqual(12_000);
    expect(container.querySelectorAll(`${"* > ".repeat(90)}*`)).toHaveLength(0);
    unmount();
  }
}, 60_000);
