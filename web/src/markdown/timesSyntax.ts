/** `7*8*9` is a product: an asterisk between numbers begins no emphasis here. CommonMark would take both signs away. */

import type { Code, Extension, State, Tokenizer } from "micromark-util-types";

const ASTERISK = 42;
const isDigit = (code: Code) => code !== null && code >= 48 && code <= 57;
const endsNumber = (code: Code) => isDigit(code) || code === 41; // )
const beginsNumber = (code: Code) => isDigit(code) || code === 40; // (

const tokenize: Tokenizer = function (effects, ok, nok) {
  const before = this.previous;
  const after: State = (code) => {
    effects.exit("data");
    return beginsNumber(code) ? ok(code) : nok(code);
  };
  return (code) => {
    if (!endsNumber(before)) return nok(code);
    effects.enter("data");
    effects.consume(code);
    return after;
  };
};

export const timesSyntax: Extension = { text: { [ASTERISK]: { name: "times", tokenize } } };
