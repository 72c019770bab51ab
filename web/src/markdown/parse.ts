/** Markdown to its syntax tree: CommonMark and GFM without HTML and footnotes, and formulas. */

import type { Root } from "mdast";
import { fromMarkdown } from "mdast-util-from-markdown";
import { gfmFromMarkdown } from "mdast-util-gfm";
import { gfm } from "micromark-extension-gfm";
import { mathFromMarkdown, mathSyntax } from "./mathSyntax";
import { timesSyntax } from "./timesSyntax";

const options = {
  extensions: [
    gfm({ singleTilde: false }),
    mathSyntax,
    timesSyntax,
    // HTML stays text, and what models indent is never code (they fence it).
    { disable: { null: ["htmlFlow", "htmlText", "codeIndented", "gfmFootnoteCall", "gfmFootnoteDefinition"] } },
  ],
  mdastExtensions: [
    // The tokenizer has found the addresses already; the transforms are a second, slower search.
    ...gfmFromMarkdown().map(({ transforms: _, ...extension }) => extension),
    mathFromMarkdown,
  ],
};

/** Quotes and lists this deep in one line are no one's text: they would only make a tree too deep to show. */
const TOO_DEEP = /^(?:[ \t]*(?:>|[-*+]|\d{1,9}[.)])){24}/m;

/** The tree of a block. A text that is meant to harm becomes one paragraph of itself. */
export function parse(source: string): Root {
  if (!TOO_DEEP.test(source)) return fromMarkdown(source, options);
  return { type: "root", children: [{ type: "paragraph", children: [{ type: "text", value: source }] }] };
}
