/** KaTeX with what a model may ask of it: no links, no HTML attributes, no images, bounded expansion and sizes. */

import katex, { type KatexOptions } from "katex";
import "katex/dist/katex.min.css";

const LONGEST = 4000;

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
  if (tex.length > LONGEST) return false;
  try {
    katex.render(tex, element, options(display));
    return true;
  } catch {
    return false;
  }
}

/** The formula as MathML, which needs no fonts or styles. Null: not understood. */
export function toMathML(tex: string, display: boolean): string | null {
  if (tex.length > LONGEST) return null;
  try {
    return katex.renderToString(tex, { ...options(display), output: "mathml" });
  } catch {
    return null;
  }
}
