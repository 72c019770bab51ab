/**
 * A reply's events as the server sends them. A lost connection is taken up again behind the last event that came, until
 * the reply's end or until the server no longer knows the reply.
 */

import { EventSourceParserStream } from "eventsource-parser/stream";
import { ApiError, send, Unreachable } from "./client";
import type { ReplyEvent } from "./types";

/** Milliseconds to wait before the n-th attempt to connect again. */
const PAUSES = [250, 500, 1000, 2000, 4000];

export interface Follow {
  signal?: AbortSignal;
  /** Told when the connection is lost, and when it is there again. */
  onConnection?: (connected: boolean) => void;
}

/**
 * first: the answer to the request that began the reply; null to follow one that is under way. Ends behind "finish".
 * Throws `ApiError` 404 when the reply is no longer under way: load the conversation.
 */
export async function* replyEvents(
  first: Response | null,
  { signal, onConnection }: Follow,
  message: string | null = null,
): AsyncGenerator<ReplyEvent, void> {
  let after = 0;
  let response = first;
  let id = message;
  let failures = 0;
  for (;;) {
    try {
      if (response === null) {
        if (id === null) throw new Unreachable();
        response = await send(`/api/replies/${id}/events?after=${after}`, signal ? { signal } : {});
        if (failures > 0) onConnection?.(true);
      }
      for await (const event of parsed(response, signal)) {
        failures = 0;
        if ("number" in event) after = event.number;
        if (event.kind === "begin") id = event.message;
        yield event;
        if (event.kind === "finish") return;
      }
    } catch (error) {
      if (signal?.aborted) throw error;
      const busy = error instanceof ApiError && (error.status === 429 || error.status >= 500);
      if (id === null || (error instanceof ApiError && !busy)) throw error;
    }
    response = null;
    if (id === null) throw new Unreachable(); // it ended before it told the reply's name
    if (failures === 0) onConnection?.(false);
    await pause(PAUSES[Math.min(failures, PAUSES.length - 1)] as number, signal);
    failures += 1;
  }
}

async function* parsed(response: Response, signal?: AbortSignal): AsyncGenerator<ReplyEvent, void> {
  if (response.body === null) return;
  const events = response.body
    .pipeThrough(new TextDecoderStream() as unknown as TransformStream<Uint8Array, string>)
    .pipeThrough(new EventSourceParserStream());
  const reader = events.getReader();
  try {
    for (;;) {
      signal?.throwIfAborted();
      const { value, done } = await reader.read();
      if (done) return;
      yield JSON.parse(value.data) as ReplyEvent;
    }
  } finally {
    void reader.cancel().catch(() => {});
  }
}

/** Ends early when the network is there again. */
function pause(milliseconds: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const finish = () => {
      clearTimeout(timer);
      window.removeEventListener("online", finish);
      signal?.removeEventListener("abort", stop);
      resolve();
    };
    const stop = () => {
      clearTimeout(timer);
      window.removeEventListener("online", finish);
      reject(signal?.reason);
    };
    const timer = setTimeout(finish, milliseconds);
    window.addEventListener("online", finish, { once: true });
    signal?.addEventListener("abort", stop, { once: true });
  });
}
