import { expect, test } from "vitest";
import { ELEMENTS, expectSafeAttribute, FORMULA_ELEMENTS } from "../../test/safe";
import corpus from "../../test/xss.json";
import type { Message } from "../api/types";
import { shareConversation } from "./share";

const message = (role: Message["role"], content: string, rest: Partial<Message> = {}): Message => ({
  id: `${Math.random()}`,
  conversation: "c",
  parent: null,
  role,
  content,
  reasoning: "",
  attachments: [],
  tool_calls: [],
  tool_call_id: null,
  model: null,
  status: "complete",
  finish_reason: "stop",
  usage: null,
  thought_seconds: 0,
  seconds: null,
  created: 0,
  ...rest,
});

const FRAME = [
  "h1",
  "h2",
  "html",
  "head",
  "meta",
  "title",
  "style",
  "body",
  "main",
  "header",
  "section",
  "details",
  "summary",
  "math",
];
const VOID = /^<(?:meta|br|hr|input)\b/;
const TAG = /<(\/?)([a-z][a-z0-9]*)((?: [a-zA-Z-]+(?:="[^"<>]*")?)*) ?\/?>/g;

/** Reads the page by a grammar so narrow that nothing hides in it: text without < and >, and tags of the list. */
function expectSafePage(html: string) {
  expect(html.startsWith("<!doctype html><html")).toBe(true);
  const body = html.slice("<!doctype html>".length).replace(/<style>[^<]*<\/style>/, "");
  expect(body.replace(TAG, "")).not.toMatch(/[<>]/);
  const open: string[] = [];
  for (const [tag, slash, name = "", attributes = ""] of body.matchAll(TAG)) {
    const inFormula = open.includes("math") || name === "math";
    if (inFormula) expect(FORMULA_ELEMENTS).toContain(name);
    else expect([...FRAME, ...Object.keys(ELEMENTS)]).toContain(name);
    if (slash) expect(open.pop()).toBe(name);
    else {
      for (const [, attribute = "", value = ""] of attributes.matchAll(/ ([a-zA-Z-]+)(?:="([^"]*)")?/g)) {
        if (FRAME.includes(name) && name !== "math")
          expect(["dir", "lang", "charSet", "http-equiv", "name", "content", "class"]).toContain(attribute);
        else if (["katex", "question"].includes(value) || (name === "ul" && attribute === "aria-label")) continue;
        else expectSafeAttribute(name, attribute, value, inFormula);
      }
      if (!VOID.test(tag) && !tag.endsWith("/>")) open.push(name);
    }
  }
  expect(open).toEqual([]);
}

const textOf = async (blob: Blob) => blob.text();

test("a page holds the branch and needs nothing else", async () => {
  const html = await textOf(
    await shareConversation("Sums & <more>", [
      message("user", "What is 1 < 2?", { attachments: [{ name: "a.txt", text: "secret" }] }),
      message("assistant", "It is \\(1\\) and\n\n```python\ndef f(): pass\n```\n", {
        reasoning: "So **well**.",
        thought_seconds: 3,
        model: "small",
      }),
    ]),
  );
  expectSafePage(html);
  expect(html).toContain("<title>Sums &amp; &lt;more&gt;</title>");
  expect(html).toContain("What is 1 &lt; 2?");
  expect(html).toMatch(
    /<details><summary>Thought for 3[^<]*<\/summary><div class="md"><p[^>]*>So <strong>well<\/strong>/,
  );
  expect(html).toContain('<math xmlns="http://www.w3.org/1998/Math/MathML">');
  expect(html).toContain('<span class="hljs-keyword">def</span>');
  expect(html).toContain("default-src &#x27;none&#x27;; style-src &#x27;unsafe-inline&#x27;");
  expect(html).toContain("a.txt");
  expect(html).not.toMatch(/secret|<script|<link|<img|@import|url\(/);
});

test("a long reply is whole", async () => {
  const content = Array.from({ length: 500 }, (_, index) => `Sentence ${index}.\n\n`).join("");
  const html = await textOf(await shareConversation("t", [message("assistant", content)]));
  expect(html).toContain("Sentence 499.");
});

test.each(corpus)("$name does no harm", async ({ text }) => {
  const html = await textOf(
    await shareConversation(text, [
      message("system", text),
      message("user", text, { attachments: [{ name: text, text }] }),
      message("assistant", text, {
        reasoning: text,
        model: text,
        tool_calls: [{ id: "1", name: text, arguments: text }],
      }),
      message("tool", text),
    ]),
  );
  expectSafePage(html);
});
