/** What a text of a model may become in the page, and nothing else. */

import { expect } from "vitest";

const GLOBAL = ["class", "dir"];

/** Elements and their attributes, besides those that any may have. */
export const ELEMENTS: Record<string, string[]> = {
  a: ["href", "target", "rel", "title"],
  button: ["type"],
  div: ["tabindex"],
  input: ["type", "checked", "disabled", "readonly", "aria-label"],
  ol: ["start"],
  pre: ["tabindex"],
  span: ["aria-live"],
  td: ["data-align"],
  th: ["data-align"],
};
const PLAIN = "blockquote br code del em figcaption figure h3 h4 h5 h6 hr li p strong table tbody thead tr ul".split(
  " ",
);
for (const name of PLAIN) ELEMENTS[name] = [];

/** What KaTeX draws with. */
const MATHML =
  "annotation math menclose mfrac mi mn mo mover mpadded mphantom mroot mrow ms mspace msqrt mstyle msub msubsup msup " +
  "mtable mtd mtext mtr munder munderover semantics";
export const FORMULA_ELEMENTS = new Set(`span svg path line ${MATHML}`.split(" "));
export const FORMULA_ATTRIBUTES = new Set(
  (
    "accent accentunder aria-hidden class columnalign columnspacing d depth display displaystyle encoding fence form height " +
    "linethickness lspace mathbackground mathcolor mathsize mathvariant maxsize minsize movablelimits notation " +
    "preserveaspectratio rowspacing rspace scriptlevel separator stretchy style symmetric viewbox voffset width x1 x2 xmlns " +
    "y1 y2"
  ).split(" "),
);
const CLASS = /^(?:md|md-[\w-]+|hljs-[\w-]+|[\w]+_)$/;

export function expectSafe(root: Element): void {
  for (const element of root.querySelectorAll("*")) {
    const name = element.tagName.toLowerCase();
    const formula = element.closest(".katex, .katex-display") !== null;
    if (formula) expect(FORMULA_ELEMENTS).toContain(name);
    else expect(Object.keys(ELEMENTS)).toContain(name);
    for (const attribute of element.attributes) expectSafeAttribute(name, attribute.name, attribute.value, formula);
  }
}

export function expectSafeAttribute(element: string, name: string, value: string, formula: boolean): void {
  const lower = name.toLowerCase();
  if (formula) {
    expect(FORMULA_ATTRIBUTES).toContain(lower);
    if (lower === "style") expect(value).not.toMatch(/url|expression|position:\s*fixed|[<>\\]/i);
    return;
  }
  expect([...GLOBAL, ...(ELEMENTS[element] ?? [])]).toContain(lower);
  if (lower === "class") for (const one of value.split(" ").filter(Boolean)) expect(one).toMatch(CLASS);
  if (lower === "href") expect(value).toMatch(/^(?:https?:\/\/|mailto:)/);
}
