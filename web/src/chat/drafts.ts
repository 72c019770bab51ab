/** What was written and not sent: it waits in its conversation, and its text outlives a reload of the page. */

import { useAui } from "@assistant-ui/react";
import { useLayoutEffect, useRef } from "react";
import { useStore } from "zustand";
import type { Attachment } from "../api/types";
import type { Attaching } from "./attaching";
import type { ConversationStore } from "./conversation";

export interface Draft {
  text: string;
  attachments: Attachment[];
}

const KEY = "millet.draft.";
const files = new Map<string, Attachment[]>();

/** conversation: null for the new one. */
const keyOf = (conversation: string | null) => KEY + (conversation ?? "");

export function keptDraft(conversation: string | null): Draft {
  const key = keyOf(conversation);
  return { text: sessionStorage.getItem(key) ?? "", attachments: files.get(key) ?? [] };
}

export function keepDraft(conversation: string | null, { text, attachments }: Draft): void {
  const key = keyOf(conversation);
  if (attachments.length > 0) files.set(key, attachments);
  else files.delete(key);
  try {
    if (text !== "") sessionStorage.setItem(key, text);
    else sessionStorage.removeItem(key);
  } catch {
    // It is longer than the browser keeps.
  }
}

export function forgetDrafts(): void {
  files.clear();
  for (const key of Object.keys(sessionStorage)) if (key.startsWith(KEY)) sessionStorage.removeItem(key);
}

/** Keeps what is in the box and beside it, and puts back into it what was kept, or could not be sent. */
export function useDraft(store: ConversationStore, text: string, attaching: Attaching): void {
  const aui = useAui();
  const id = useStore(store.store, (state) => state.id);
  const keptAs = useRef(id);
  const restored = useRef(false);
  const { files, restore } = attaching;

  useLayoutEffect(() => {
    const put = (draft: Draft) => {
      const written = aui.composer.getState().text;
      aui.composer.setText([draft.text, written].filter(Boolean).join("\n\n"));
      restore(draft.attachments);
    };
    const putReturned = () => {
      const returned = store.takeReturned();
      if (returned !== null) put(returned);
    };
    if (!restored.current) put(keptDraft(store.state.id));
    restored.current = true;
    putReturned();
    return store.store.subscribe(putReturned);
  }, [store, aui, restore]);

  useLayoutEffect(() => {
    if (keptAs.current !== id) keepDraft(keptAs.current, { text: "", attachments: [] });
    keptAs.current = id;
    keepDraft(id, { text, attachments: files.flatMap((each) => each.attachment ?? []) });
  }, [id, text, files]);
}
