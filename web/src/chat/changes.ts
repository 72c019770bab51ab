/**
 * Learning that something changed elsewhere: in another tab of this browser at once, in another browser within seconds.
 */

import { request, Unreachable } from "../api/client";

const INTERVAL = 3000; // milliseconds between two looks of a tab that is seen

interface Changes {
  list: string;
  conversation: string | null;
}

const channel = new BroadcastChannel("millet");
const here = new EventTarget(); // a channel does not tell the tab that speaks

/** Something was changed by this tab: all tabs look. */
export function announce(): void {
  channel.postMessage("changed");
  here.dispatchEvent(new Event("changed"));
}

export interface Watch {
  conversation: () => string | null;
  onList: () => void;
  onConversation: (id: string) => void;
  onReachable: (reachable: boolean) => void;
}

/** Look for changes for as long as the tab is seen. Returns what ends it. */
export function watchChanges({ conversation, onList, onConversation, onReachable }: Watch): () => void {
  let known: { id: string | null; changes: Changes } | null = null;
  let timer: ReturnType<typeof setTimeout> | null = null;
  let ended = false;
  let busy = false;
  let again = false;

  async function look(): Promise<void> {
    if (ended || document.visibilityState === "hidden") return;
    if (busy) {
      again = true;
      return;
    }
    busy = true;
    if (timer !== null) clearTimeout(timer);
    const id = conversation();
    try {
      const changes = await request<Changes>(id === null ? "/api/changes" : `/api/changes?conversation=${id}`);
      onReachable(true);
      if (known !== null && known.changes.list !== changes.list) onList();
      // The first look at a conversation is behind its loading, which may have missed what came between.
      if (id !== null && (known?.id !== id || known.changes.conversation !== changes.conversation)) onConversation(id);
      known = { id, changes };
    } catch (error) {
      if (error instanceof Unreachable) onReachable(false);
    } finally {
      busy = false;
      if (!ended) timer = setTimeout(look, again ? 0 : INTERVAL);
      again = false;
    }
  }

  channel.addEventListener("message", look);
  here.addEventListener("changed", look);
  document.addEventListener("visibilitychange", look);
  window.addEventListener("focus", look);
  void look();
  return () => {
    ended = true;
    if (timer !== null) clearTimeout(timer);
    channel.removeEventListener("message", look);
    here.removeEventListener("changed", look);
    document.removeEventListener("visibilitychange", look);
    window.removeEventListener("focus", look);
  };
}
