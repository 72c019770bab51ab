import { expect, test } from "vitest";
import { type Block, LIMIT, type Split, split } from "./blocks";

const all = (state: Split): Block[] => (state.open.source ? [...state.settled, state.open] : [...state.settled]);
const blocksOf = (text: string) => all(split(text));
const sources = (text: string) => blocksOf(text).map((block) => block.source);
const kinds = (text: string) => blocksOf(text).map((block) => block.kind);

/** A small generator with a seed, so that a failure repeats. */
function random(seed: number) {
  let state = seed;
  return (below: number) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * below);
  };
}

const LINES = [
  "",
  "",
  "",
  "text of a paragraph",
  "# Heading",
  "- item",
  "- ",
  "* other",
  "  nested text",
  "  - nested",
  "1. one",
  "1. again",
  "23. later",
  "   ```js",
  "```",
  "```python",
  "~~~",
  "````",
  "$$",
  "$$ x^2 $$",
  "\\[",
  "\\]",
  "x = y \\] so",
  "| a | b |",
  "|---|---|",
  "| 1 | 2 |",
  "a | b",
  "--|--",
  "> quote",
  ">> deeper",
  "---",
  "===",
  "* * *",
  "\tcode",
  "long ".repeat(90),
  "无空格的长行".repeat(100),
  "😀".repeat(220),
  "`".repeat(40),
  "- ```sh",
  "    indented",
];

function sample(seed: number): string {
  const next = random(seed);
  let text = "";
  for (let n = next(80); n > 0; n--) {
    text += LINES[next(LINES.length)] ?? "";
    if (next(6)) text += "\n";
  }
  return text;
}

test("the blocks joined are the text, in any pieces the same, and settled ones stay", () => {
  for (let seed = 0; seed < 400; seed++) {
    const text = sample(seed);
    const whole = split(text);
    expect(
      all(whole)
        .map((block) => block.source)
        .join(""),
    ).toBe(text);
    const next = random(seed + 1000);
    let state: Split | undefined;
    for (let at = 0; at < text.length; ) {
      at = Math.min(text.length, at + 1 + next(seed % 2 ? 3 : 90));
      const before: Split | undefined = state;
      state = split(text.slice(0, at), before);
      // One `expect` for all of them: it takes longer than what it checks.
      const { settled } = state;
      expect((before?.settled ?? []).every((block, index) => settled[index] === block)).toBe(true);
    }
    if (state) expect(state).toEqual(whole);
  }
});

test("no block is longer than the limit", () => {
  for (let seed = 0; seed < 200; seed++) {
    for (const block of blocksOf(sample(seed))) expect(block.source.length).toBeLessThanOrEqual(LIMIT);
  }
});

test("another text begins anew", () => {
  expect(split("other\n\ntext", split("some\n\ntext"))).toEqual(split("other\n\ntext"));
});

test("paragraphs, lists, code, formulas and tables are blocks", () => {
  const text =
    "Intro:\n- a\n\n- b\n  more\n\nText\n```py\nx\n\ny\n```\n$$\na\n\nb\n$$\n| a | b |\n|--|--|\n| 1 | 2 |\nend";
  expect(sources(text)).toEqual([
    "Intro:\n",
    "- a\n\n- b\n  more\n\n",
    "Text\n",
    "```py\nx\n\ny\n```\n",
    "$$\na\n\nb\n$$\n",
    "| a | b |\n|--|--|\n| 1 | 2 |\nend",
  ]);
  expect(kinds(text)).toEqual(["text", "text", "text", "code", "math", "table"]);
});

test("an item begins a list inside a paragraph only where it has text, and the number 1", () => {
  expect(sources("a\n-\nb\n1.\nc\n2024. d\n")).toHaveLength(1);
  expect(sources("a\n1. b\n")).toEqual(["a\n", "1. b\n"]);
});

test("a fence is closed by one as long", () => {
  expect(sources("````\n```\n````\nx")).toEqual(["````\n```\n````\n", "x"]);
});

test("code of an item that is indented less than the item is a block of its own", () => {
  expect(sources("1. Run\n   ```sh\nls\n   ```\n2. Then\n")).toEqual([
    "1. Run\n",
    "   ```sh\nls\n   ```\n",
    "2. Then\n",
  ]);
  expect(sources("1. Run\n   ```sh\n   ls\n   ```\n2. Then\n")).toHaveLength(1);
});

test("a long list is cut at its items and keeps its numbers", () => {
  const text = Array.from({ length: 400 }, (_, i) => `1. item ${i}\n`).join("");
  const blocks = blocksOf(text);
  expect(blocks.length).toBeGreaterThan(1);
  let count = 1;
  for (const [index, block] of blocks.entries()) {
    expect(block.source.startsWith("1. item")).toBe(true);
    expect(block.continues).toBe(index > 0);
    if (index > 0) expect(block.ordinal).toBe(count);
    count += block.source.split("\n").length - 1;
  }
});

test("a long table keeps its head", () => {
  const text = `| a | b |\n|---|---|\n${"| one | two |\n".repeat(500)}`;
  const [first, ...others] = blocksOf(text);
  expect(first?.head).toBe("");
  expect(others.length).toBeGreaterThan(1);
  for (const block of others)
    expect(block).toMatchObject({ kind: "table", head: "| a | b |\n|---|---|\n", continues: true });
});

test("long code stays one construct, in list items too", () => {
  const code = "let x = 1;\n".repeat(600);
  const plain = blocksOf(`\`\`\`js\n${code}\`\`\`\n`);
  expect(plain.every((block) => block.kind === "code" && block.fence?.info === "js")).toBe(true);
  expect(plain.map((block) => block.continues)).toEqual(plain.map((_, index) => index > 0));
  expect(plain.at(-1)?.closed).toBe(true);
  const nested = blocksOf(`- item\n\n  \`\`\`js\n${code.replace(/^/gm, "  ").trimEnd()}\n  \`\`\`\n- next\n`);
  expect(nested[0]).toMatchObject({ kind: "text", source: "- item\n\n" });
  expect(nested.slice(1, -1).every((block) => block.kind === "code")).toBe(true);
  expect(nested.at(-1)).toMatchObject({ kind: "text", source: "- next\n" });
});

test("a long line is cut before a word", () => {
  for (const block of blocksOf("some words in a line ".repeat(1000)).slice(1)) expect(block.source).toMatch(/^[a-z]/);
});

test("a sum of money or an open formula does not swallow the reply", () => {
  expect(kinds(`$$\n${"text\n\n".repeat(2000)}`)).not.toContain("math");
});
