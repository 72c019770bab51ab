/** Code to coloured spans. The highlighter and each language are loaded when they are first needed. */

import type { ElementContent } from "hast";
import { languageOf, loadLanguage } from "./languages";
import { lazy } from "./lazy";

const loadLowlight = lazy(() => import("lowlight").then(({ createLowlight }) => createLowlight()));

/** Longer code stays plain: highlighting it would hold up the page. */
const LONGEST = 20_000;

/** Gets all that is needed for the languages named. */
export async function prepare(languages: string[]): Promise<void> {
  const known = new Set(languages.map(languageOf).filter((name) => name !== null));
  if (!known.size) return;
  const lowlight = await loadLowlight();
  await Promise.all(
    Array.from(known, async (name) => {
      if (!lowlight.registered(name)) lowlight.register(name, (await loadLanguage(name)).default);
    }),
  );
}

/** The coloured code, of elements `span` with classes `hljs-...` alone. Null: not prepared, unknown or too long. */
export function highlight(code: string, language: string): ElementContent[] | null {
  const lowlight = loadLowlight.now();
  const known = languageOf(language);
  if (!known || code.length > LONGEST || !lowlight?.registered(known)) return null;
  return lowlight.highlight(known, code).children as ElementContent[];
}
