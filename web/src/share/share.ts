/** A conversation as one HTML file that needs nothing else: no script, no font, no server. */

import type { Message } from "../api/types";
import { languageTag, texts } from "../i18n";
import { prepare } from "../markdown/highlight";
import { loadKatex } from "../markdown/katex";

/** The languages that code blocks name, nested ones too. */
const FENCES = /^[ \t>*+\d.)-]*(?:`{3,}|~{3,})[ \t]*([^\s`{,]+)/gm;

/** messages: a branch, in order. */
export async function shareConversation(title: string, messages: readonly Message[]): Promise<Blob> {
  const all = messages.map(({ reasoning, content }) => `${reasoning}\n${content}`).join("\n");
  const [{ pageOf }, katex] = await Promise.all([
    import("./page"),
    loadKatex(),
    prepare(Array.from(all.matchAll(FENCES), ([, language = ""]) => language)),
  ]);
  const html = pageOf({ title, messages, texts: texts(), language: languageTag(), formula: katex.toMathML });
  return new Blob([html], { type: "text/html;charset=utf-8" });
}
