/** What messages need of the conversation that they are in. */

import { useAuiState } from "@assistant-ui/react";
import { createContext, use, useSyncExternalStore } from "react";
import type { Message, ReplyOptions } from "../api/types";
import type { ConversationStore } from "./conversation";
import type { LiveState } from "./live";

export interface Shown {
  store: ConversationStore;
  byId: ReadonlyMap<string, Message>;
  versions: (message: Message) => readonly Message[];
  /** The last message of the branch. */
  last: Message | null;
  options: () => ReplyOptions;
}

export const ShownContext = createContext<Shown | null>(null);

export function useShown(): Shown {
  const shown = use(ShownContext);
  if (shown === null) throw new Error("a message outside of a thread");
  return shown;
}

/** The message that is drawn here. */
export function useMessage(): Message | null {
  const id = useAuiState((state) => state.message.id);
  return useShown().byId.get(id) ?? null;
}

const nothing = () => () => {};

/** The growing text of a reply; null when it does not grow. */
export function useLive(message: Message | null): LiveState | null {
  const { store } = useShown();
  const live = message === null ? null : store.live(message.id);
  return useSyncExternalStore<LiveState | null>(live?.subscribe ?? nothing, live?.snapshot ?? (() => null));
}
