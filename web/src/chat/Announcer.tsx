/** Tells screen readers, politely, that a reply thinks, and what it says when it is complete, or why it is not. */

import { useEffect, useRef, useState, useSyncExternalStore } from "react";
import type { Message } from "../api/types";
import { useTexts } from "../i18n";
import type { Live } from "./live";
import { endingText } from "./Messages";

const LONGEST = 600; // characters that are read aloud; the rest is there to be read

const nothing = () => () => {};

export function Announcer({ last, live }: { last: Message | null; live: Live | null }) {
  const t = useTexts();
  const phase = useSyncExternalStore(live?.subscribe ?? nothing, () => live?.state.phase ?? null);
  const [text, setText] = useState("");
  const running = useRef(false);
  useEffect(() => {
    if (phase !== null) {
      running.current = true;
      setText(phase === "thinking" ? t.thinking : phase === "writing" ? t.writing : "");
    } else if (running.current && last?.role === "assistant") {
      running.current = false;
      const ending = endingText(last, t);
      setText(ending ?? `${t.answerReady}. ${answerOf(last).slice(0, LONGEST)}`);
    }
  }, [phase, last, t]);
  return (
    <div className="hidden" aria-live="polite">
      {text}
    </div>
  );
}

/** The answer's words, without its markup where it is drawn already. */
function answerOf(message: Message): string {
  const drawn = document.querySelector<HTMLElement>(`[data-message="${message.id}"] .answer`);
  // biome-ignore lint/performance/useDomNodeTextContent: what is hidden, a formula's second form, is not read twice
  return drawn?.innerText.trim() || message.content;
}
