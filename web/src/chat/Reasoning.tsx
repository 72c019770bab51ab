/** The thought of a reply: live with its time and tokens, then folded away behind "Thought for 12 s". */

import { useEffect, useId, useRef, useState } from "react";
import type { Message } from "../api/types";
import { elapsed } from "../format";
import { useTexts } from "../i18n";
import { icons } from "../icons";
import { Markdown } from "../markdown/Markdown";
import { grown, type LiveState } from "./live";

export function Reasoning({ message, live }: { message: Message; live: LiveState | null }) {
  const t = useTexts();
  const id = useId();
  const text = grown(message.reasoning, live?.reasoning);
  const thinking = live?.phase === "thinking";
  // Open while it thinks, unless the person says otherwise.
  const [wanted, setWanted] = useState<boolean | null>(null);
  const open = wanted ?? thinking;
  if (text === "") return null;
  return (
    <section className="reasoning" data-thinking={thinking || undefined}>
      <button
        type="button"
        className="quiet"
        aria-expanded={open}
        aria-controls={id}
        onClick={() => setWanted(!open)}
        title={open ? t.hideThought : t.showThought}
      >
        {icons.thought}
        {live ? <Clock live={live} /> : <span>{summary(message, t)}</span>}
        <span className="fold" data-open={open || undefined}>
          {icons.down}
        </span>
      </button>
      {/* What scrolls must be reached by keys, so it takes the focus. */}
      <section id={id} hidden={!open} className="thought" tabIndex={open ? 0 : -1} aria-label={t.thinking}>
        {open && <Scroll follow={thinking && wanted === null} text={text} streaming={thinking} />}
      </section>
    </section>
  );
}

/** A long thought scrolls in a box of its own while it grows, and is shown whole once the person opened it. */
function Scroll({ follow, text, streaming }: { follow: boolean; text: string; streaming: boolean }) {
  const ref = useRef<HTMLDivElement>(null);
  // biome-ignore lint/correctness/useExhaustiveDependencies: each new piece of text scrolls
  useEffect(() => {
    const box = ref.current?.parentElement;
    if (follow && box) box.scrollTop = box.scrollHeight;
  }, [text, follow]);
  return (
    <div ref={ref} data-follow={follow || undefined}>
      <Markdown text={text} streaming={streaming} />
    </div>
  );
}

function summary(message: Message, t: ReturnType<typeof useTexts>): string {
  const tokens = message.usage?.reasoning_tokens ?? null;
  if (message.thought_seconds > 0) return t.thoughtFor(elapsed(message.thought_seconds), tokens);
  return message.status === "complete" ? t.thought : t.thoughtStopped;
}

/** Ticks by itself, so that the time goes on while no token comes. */
function Clock({ live }: { live: LiveState }) {
  const t = useTexts();
  const [now, setNow] = useState(() => performance.now());
  const running = live.thoughtBegan !== null && live.thoughtEnded === null;
  useEffect(() => {
    if (!running) return;
    const timer = setInterval(() => setNow(performance.now()), 500);
    return () => clearInterval(timer);
  }, [running]);
  const until = live.thoughtEnded ?? Math.max(now, live.thoughtBegan ?? now);
  const text = elapsed(live.thoughtBegan === null ? 0 : (until - live.thoughtBegan) / 1000);
  const tokens = live.thoughtTokens;
  return <span>{running ? t.thinkingFor(text, tokens) : t.thoughtFor(text, tokens || null)}</span>;
}
