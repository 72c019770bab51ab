/**
 * The page's languages. A language is a dictionary of texts and of functions that make texts; TypeScript holds every
 * language to the keys of English, so that none lacks a text.
 */

import { createContext, use, useSyncExternalStore } from "react";
import { en } from "./en";
import { zh } from "./zh";

export type Texts = typeof en;
export type Language = "en" | "zh";

export const LANGUAGES: Record<Language, { name: string; tag: string; texts: Texts }> = {
  en: { name: "English", tag: "en", texts: en },
  zh: { name: "简体中文", tag: "zh-CN", texts: zh },
};

const KEY = "millet.language";
const listeners = new Set<() => void>();

function preferred(): Language {
  const chosen = localStorage.getItem(KEY);
  if (chosen === "en" || chosen === "zh") return chosen;
  return navigator.languages.find((tag) => /^(en|zh)\b/.test(tag))?.startsWith("zh") ? "zh" : "en";
}

let current = preferred();

export function setLanguage(language: Language): void {
  localStorage.setItem(KEY, language);
  current = language;
  for (const listener of listeners) listener();
}

export function useLanguage(): Language {
  return useSyncExternalStore(
    (listener) => {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
    () => current,
  );
}

export const TextsContext = createContext<Texts>(en);

/** The texts of the language in use. */
export function useTexts(): Texts {
  return use(TextsContext);
}

/** For code outside of components. */
export function texts(): Texts {
  return LANGUAGES[current].texts;
}

/** The language's tag, for Intl. */
export function languageTag(): string {
  return LANGUAGES[current].tag;
}
