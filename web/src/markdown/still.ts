import type { ElementContent } from "hast";
import { createContext } from "react";

/** What a page that is drawn once, without effects, needs at hand. Null where the page lives. */
export interface Still {
  /** MathML, or null where the formula is not understood. */
  formula: (tex: string, display: boolean) => string | null;
  /** The highlighted code, or null where the language is not known. */
  code: (code: string, language: string) => ElementContent[] | null;
}

export const StillContext = createContext<Still | null>(null);
