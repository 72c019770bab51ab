/** A server in memory, for tests of what talks to it: routes that answer, and replies that stream at a word's notice. */

import { vi } from "vitest";
import type { ReplyEvent } from "../src/api/types";

export class StreamedReply {
  private controller: ReadableStreamDefaultController<Uint8Array> | null = null;
  readonly response: Response;

  constructor() {
    const body = new ReadableStream<Uint8Array>({
      start: (controller) => {
        this.controller = controller;
      },
    });
    this.response = new Response(body, { headers: { "Content-Type": "text/event-stream" } });
  }

  say(...events: ReplyEvent[]): void {
    const text = events.map((event) => `data: ${JSON.stringify(event)}\n\n`).join("");
    this.controller?.enqueue(new TextEncoder().encode(text));
  }

  close(): void {
    this.controller?.close();
  }

  /** As a network does that is gone. */
  break(): void {
    this.controller?.error(new TypeError("network error"));
  }
}

type Answer = Response | object | null | Error;

export interface Asked {
  method: string;
  path: string;
  body: unknown;
  headers: Record<string, string>;
}

/** routes: by "METHOD /path" without its query; several answers to one are given in turn, the last for ever. */
export function fakeServer(routes: Record<string, Answer | Answer[] | (() => Answer | Promise<Answer>)>) {
  const asked: Asked[] = [];
  const turns = new Map<string, number>();
  const fetch = vi.fn(async (path: string, init: RequestInit = {}) => {
    const method = init.method ?? "GET";
    const body = typeof init.body === "string" ? JSON.parse(init.body) : null;
    asked.push({ method, path, body, headers: init.headers as Record<string, string> });
    init.signal?.throwIfAborted();
    const key = `${method} ${path.split("?")[0]}`;
    const route = routes[key];
    if (route === undefined) return refuse(404, "no such thing", "not_found");
    let answer: Answer;
    if (typeof route === "function") answer = await route();
    else if (Array.isArray(route)) {
      const turn = turns.get(key) ?? 0;
      turns.set(key, turn + 1);
      answer = route[Math.min(turn, route.length - 1)] as Answer;
    } else answer = route;
    if (answer instanceof Error) throw answer;
    if (answer instanceof Response) return answer;
    return answer === null ? new Response(null, { status: 204 }) : Response.json(answer);
  });
  vi.stubGlobal("fetch", fetch);
  return asked;
}

export function refuse(status: number, message: string, code: string | null = null, headers: HeadersInit = {}) {
  return Response.json({ error: { message, code } }, { status, headers });
}
