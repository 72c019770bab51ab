/**
 * KaTeX with what a model may ask of it: no links, no HTML attributes, no images, no commands of its own (a few
 * characters could become millions), bounded sizes and depth.
 */

import katex, { type KatexOptions } from "katex";
import "katex/dist/katex.min.css";

/** Elements within elements. A browser's layout recurses, and at a few thousand its process dies. */
const DEEPEST = 200;

const DEFINITION = /\\(?:[gex]?def|let|futurelet|(?:re)?newcommand|providecommand)(?![a-zA-Z])/;

const options = (display: boolean): KatexOptions => ({
  displayMode: display,
  throwOnError: true,
  strict: "ignore",
  trust: false,
  maxExpand: 300,
  maxSize: 20,
});

/** Draws a formula into an element, by DOM calls alone (no markup, so no style attributes). False: not understood. */
export function render(tex: string, element: HTMLElement, display: boolean): boolean {
  if (DEFINITION.test(tex)) return false;
  try {
    const drawn = document.createElement("span");
    katex.render(tex, drawn, options(display));
    if (isTooDeep(drawn)) return false;
    element.replaceChildren(...drawn.childNodes);
    return true;
  } catch {
    return false;
  }
}

function isTooDeep(root: Element): boolean {
  let level = [root];
  for (let depth = 0; level.length; depth++) {
    if (depth > DEEPEST) return true;
    level = level.flatMap((element) => Array.from(element.children));
  }
  return false;
}

/** The formula as MathML, which needs no fonts or styles. Null: not understood. */
export function toMathML(tex: string, display: boolean): string | null {
  if (DEFINITION.test(tex)) return null;
  try {
    const html = katex.renderToString(tex, { ...options(display), output: "mathml" });
    return isTooDeepMarkup(html) ? null : html;
  } catch {
    return null;
  }
}

function isTooDeepMarkup(html: string): boolean {
  let depth = 0;
  for (const [tag, slash] of html.matchAll(/<(\/?)[^>]*>/g)) {
    depth += slash ? -1 : tag.endsWith("/>") ? 0 : 1;
    if (depth > DEEPEST) return true;
  }
  return false;
}
