/** How many tokens the next prompt would have, and whether it fits; asked once the writing pauses. */

import { useEffect, useState } from "react";
import { request } from "../api/client";
import type { Count, ReplyOptions } from "../api/types";
import type { Attaching } from "./attaching";
import type { ConversationStore } from "./conversation";
import { usePreferences } from "./preferences";

const PAUSE = 400; // milliseconds without a change
const LONG = 1000; // characters from which a text is worth counting

export function useCount(
  store: ConversationStore,
  text: string,
  attaching: Attaching,
  parent: string | null,
  options: () => ReplyOptions,
): Count | null {
  const [count, setCount] = useState<Count | null>(null);
  const { files, ready } = attaching;
  const chosen = usePreferences(); // another model, or other instructions, count otherwise
  const worth = ready && (files.length > 0 || text.length > LONG);
  // biome-ignore lint/correctness/useExhaustiveDependencies: options() reads what is chosen
  useEffect(() => {
    if (!worth) {
      setCount(null);
      return;
    }
    const controller = new AbortController();
    const timer = setTimeout(async () => {
      const attachments = files.flatMap((file) => (file.attachment ? [file.attachment] : []));
      const { model, system, think } = options();
      const conversation = store.state.id ?? undefined;
      const body = {
        conversation,
        parent: parent ?? undefined,
        content: text || " ",
        attachments,
        model,
        system,
        think,
      };
      try {
        setCount(await request<Count>("/api/count", { method: "POST", body, signal: controller.signal }));
      } catch {
        setCount(null); // it is a help; sending says what is wrong
      }
    }, PAUSE);
    return () => {
      clearTimeout(timer);
      controller.abort();
    };
  }, [worth, text, files, parent, options, store, chosen]);
  return count;
}
