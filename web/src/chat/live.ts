/**
 * The text of a reply while it comes. It grows many times a second, so it is kept apart from the conversation: only
 * what shows it listens, and is told at a pace that a slow machine can draw.
 */

import type { ReplyEvent } from "../api/types";

export type Phase = "starting" | "waiting" | "thinking" | "writing";

export interface LiveState {
  phase: Phase;
  reasoning: string;
  content: string;
  /** Tokens of the thought so far. */
  thoughtTokens: number;
  /** When the thought began and ended, in milliseconds of performance.now(). */
  thoughtBegan: number | null;
  thoughtEnded: number | null;
  queue: { position: number; seconds: number | null } | null;
  connected: boolean;
}

const PACE = 60; // milliseconds between two drawings

export class Live {
  state: LiveState = {
    phase: "starting",
    reasoning: "",
    content: "",
    thoughtTokens: 0,
    thoughtBegan: null,
    thoughtEnded: null,
    queue: null,
    connected: true,
  };

  private next: LiveState = this.state;
  /** Milliseconds of the thought before this page followed it. */
  private thoughtBefore = 0;
  private timer: ReturnType<typeof setTimeout> | null = null;
  private readonly listeners = new Set<() => void>();

  readonly subscribe = (listener: () => void): (() => void) => {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  };

  readonly snapshot = (): LiveState => this.state;

  take(event: ReplyEvent): void {
    const before = this.next;
    const now = performance.now();
    switch (event.kind) {
      case "begin":
        this.thoughtBefore = event.thought_seconds * 1000;
        break;
      case "waiting":
        this.change({ phase: "waiting", queue: { position: event.position, seconds: event.seconds } });
        break;
      case "reasoning":
        this.change({
          phase: "thinking",
          reasoning: before.reasoning + event.text,
          thoughtTokens: before.thoughtTokens + event.tokens,
          thoughtBegan: before.thoughtBegan ?? now - this.thoughtBefore,
          queue: null,
        });
        break;
      case "content":
        this.change({
          phase: "writing",
          content: before.content + event.text,
          thoughtEnded: before.thoughtEnded ?? (before.thoughtBegan === null ? null : now),
          queue: null,
        });
        break;
    }
    // The first piece of a phase is shown at once.
    if (before.phase !== this.next.phase) this.flush();
  }

  setConnected(connected: boolean): void {
    this.change({ connected });
    this.flush();
  }

  /** Show now what has come. */
  flush(): void {
    if (this.timer !== null) clearTimeout(this.timer);
    this.timer = null;
    if (this.state === this.next) return;
    this.state = this.next;
    for (const listener of this.listeners) listener();
  }

  private change(values: Partial<LiveState>): void {
    this.next = { ...this.next, ...values };
    this.timer ??= setTimeout(() => this.flush(), PACE);
  }
}

/** A reply that is followed anew comes from its beginning again; what is on the screen already stays. */
export function grown(known: string, live: string | undefined): string {
  return live === undefined || live.length < known.length ? known : live;
}
