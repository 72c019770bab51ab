/**
 * Formulas as a micromark extension: `$x$` and `\(x\)` within a line, `$$x$$` and `\[x\]` on display.
 *
 * A single dollar is a formula's only where sums of money cannot be meant: no letter or digit before the opening one, no
 * white space inside, no digit after the closing one, and the next dollar has to be the closing one.
 */

import type { Extension as FromMarkdownExtension } from "mdast-util-from-markdown";
import type { Code, Construct, Extension, State, TokenizeContext, Tokenizer } from "micromark-util-types";

declare module "micromark-util-types" {
  interface TokenTypeMap {
    math: "math";
    mathData: "mathData";
  }
}

declare module "mdast" {
  interface FormulaNode {
    type: "formula";
    tex: string;
    display: boolean;
    position?: import("unist").Position;
  }
  interface PhrasingContentMap {
    formula: FormulaNode;
  }
  interface RootContentMap {
    formula: FormulaNode;
  }
}

const DOLLAR = 36;
const BACKSLASH = 92;
const isEol = (code: Code) => code !== null && code < -2;
const isSpace = (code: Code) => code === null || code < 0 || code === 32;
const isDigit = (code: Code) => code !== null && code >= 48 && code <= 57;
const isWord = (code: Code) => isDigit(code) || (code !== null && (code | 32) >= 97 && (code | 32) <= 122);

/** Closers that are nowhere in the rest of a text: each opener would look for its own up to the end. */
const missing = new WeakMap<TokenizeContext, Set<string>>();

/** flow: a formula that has its lines for itself, where nothing else can begin. */
function tokenizer(flow: boolean): Tokenizer {
  return function (effects, ok, nok) {
    const absent = missing.get(this) ?? new Set<string>();
    missing.set(this, absent);
    const before = this.previous;
    const parser = this.parser;
    const now = this.now;
    const interrupt = this.interrupt;
    let single = false;
    let closer: Code = DOLLAR;
    let empty = true;
    let last: Code = null;

    const start: State = (code) => {
      effects.enter("math");
      effects.enter("mathData");
      effects.consume(code);
      return code === DOLLAR ? afterDollar : afterBackslash;
    };
    const afterDollar: State = (code) => {
      if (code === DOLLAR) {
        effects.consume(code);
        return begin;
      }
      if (flow || isSpace(code) || isWord(before)) return nok(code);
      single = true;
      return begin(code);
    };
    const afterBackslash: State = (code) => {
      if (code !== 91 && (flow || code !== 40)) return nok(code);
      closer = code === 91 ? 93 : 41;
      effects.consume(code);
      return begin;
    };
    const begin: State = (code) => (absent.has(`${closer}${single}`) ? nok(code) : content(code));
    const content: State = (code) => {
      if (code === null) {
        absent.add(`${closer}${single}`);
        return nok(code);
      }
      if (isEol(code)) {
        // A paragraph gives way to a formula as soon as its first line is known to be one.
        if (flow && interrupt) return ok(code);
        effects.exit("mathData");
        effects.enter("lineEnding");
        effects.consume(code);
        effects.exit("lineEnding");
        last = code;
        return lineStart;
      }
      if (code === DOLLAR && closer === DOLLAR) {
        if (single && (isSpace(last) || empty)) return nok(code);
        effects.consume(code);
        return single ? close : secondDollar;
      }
      effects.consume(code);
      last = code;
      if (code === BACKSLASH) return escaped;
      if (!isSpace(code)) empty = false;
      return content;
    };
    const lineStart: State = (code) => {
      if (flow && parser.lazy[now().line]) return nok(code);
      effects.enter("mathData");
      return content(code);
    };
    const escaped: State = (code) => {
      if (code === null || isEol(code)) return content(code);
      effects.consume(code);
      last = code;
      if (code === closer && closer !== DOLLAR) return empty ? nok : close;
      empty = false;
      return content;
    };
    const secondDollar: State = (code) => {
      if (code !== DOLLAR) return content(code);
      if (empty) return nok(code);
      effects.consume(code);
      return close;
    };
    const close: State = (code) => {
      if (single && (isDigit(code) || code === DOLLAR)) return nok(code);
      if (flow && (code === 32 || code === -2 || code === -1)) {
        effects.consume(code);
        return close;
      }
      if (flow && code !== null && !isEol(code)) return nok(code);
      effects.exit("mathData");
      effects.exit("math");
      return ok(code);
    };
    return start;
  };
}

const text: Construct = { name: "math", tokenize: tokenizer(false) };
const dollars: Construct = { ...text, previous: (code) => code !== DOLLAR };
const flow: Construct = { name: "math", tokenize: tokenizer(true), concrete: true };

export const mathSyntax: Extension = {
  text: { [DOLLAR]: dollars, [BACKSLASH]: text },
  flow: { [DOLLAR]: flow, [BACKSLASH]: flow },
};

/** The formula in its delimiters, undone. */
export function texOf(source: string): { tex: string; display: boolean } {
  const trimmed = source.trim();
  const width = trimmed.startsWith("$") && !trimmed.startsWith("$$") ? 1 : 2;
  const display = trimmed.startsWith("$$") || trimmed.startsWith("\\[");
  return { tex: trimmed.slice(width, -width).trim(), display };
}

export const mathFromMarkdown: FromMarkdownExtension = {
  enter: {
    math(token) {
      this.enter({ type: "formula", tex: "", display: false }, token);
    },
  },
  exit: {
    math(token) {
      const node = this.stack[this.stack.length - 1];
      if (node?.type === "formula") Object.assign(node, texOf(this.sliceSerialize(token)));
      this.exit(token);
    },
  },
};
