/** What a person chose for the next replies; kept in the browser. */

import { useStore } from "zustand";
import { persist } from "zustand/middleware";
import { createStore } from "zustand/vanilla";
import type { ReplyOptions } from "../api/types";

/** The server takes no larger number. */
export const MOST_TOKENS = 2 ** 31;

export type Thinking = "off" | "auto" | "on" | "budget";

export interface Preferences {
  /** null: the server's default. */
  model: string | null;
  thinking: Thinking;
  /** Most tokens of a thought, where thinking is "budget". */
  budget: number;
  instructions: string;
  temperature: number | null;
  maxTokens: number | null;
  /** Whether the list of conversations is shown beside the conversation, on wide screens. */
  sidebar: boolean;
}

const DEFAULTS: Preferences = {
  model: null,
  thinking: "on",
  budget: 512,
  instructions: "",
  temperature: null,
  maxTokens: null,
  sidebar: true,
};

const NAME = "millet.preferences";

export const preferences = createStore<Preferences>()(persist(() => DEFAULTS, { name: NAME }));

// Another tab's choices hold here too; else the next one made here would undo them.
window.addEventListener("storage", ({ key }) => {
  if (key === NAME) void preferences.persist.rehydrate();
});

export function usePreferences(): Preferences {
  return useStore(preferences);
}

/** As the server takes them. models: the names it serves; another is left out. */
export function replyOptions(chosen: Preferences, models: readonly string[]): ReplyOptions {
  const options: ReplyOptions = { think: chosen.thinking === "budget" ? chosen.budget : chosen.thinking };
  if (chosen.model !== null && models.includes(chosen.model)) options.model = chosen.model;
  if (chosen.instructions.trim() !== "") options.system = chosen.instructions;
  if (chosen.temperature !== null) options.temperature = chosen.temperature;
  if (chosen.maxTokens !== null) options.max_tokens = chosen.maxTokens;
  return options;
}
