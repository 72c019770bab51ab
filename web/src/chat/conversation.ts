/** One conversation: its messages, the branch that is shown, and the replies on their way into it. */

import { createStore } from "zustand/vanilla";
import { ApiError, request, send, Unreachable } from "../api/client";
import { replyEvents } from "../api/stream";
import type { Conversation, Message, NewReply, ReplyEvent, ReplyOptions, Tree } from "../api/types";
import { announce } from "./changes";
import type { Draft } from "./drafts";
import { reason, refusal } from "./failures";
import { grown, Live } from "./live";
import { modelReady } from "./models";
import { branches, type Choices, choose, chooseNewest, merged } from "./tree";

/** Messages that are drawn at first, and more at each wish for earlier ones. */
export const WINDOW = 40;

export interface ConversationState {
  /** null: nothing was said yet, so the server does not know it. */
  id: string | null;
  title: string;
  messages: readonly Message[];
  choices: Choices;
  shown: number;
  loaded: boolean;
  missing: boolean;
  /** Why the last thing that was tried did not work. */
  failure: string | null;
  /** What could not be sent, to be put back where it was written. */
  returned: Draft | null;
}

type Finish = Extract<ReplyEvent, { kind: "finish" }>;

/** A reply on its way, from the wish for it to its end. */
interface Run {
  live: Live;
  controller: AbortController;
  /** The server may know of it: it cannot be taken back any more, only stopped. */
  sent: boolean;
  /** The server has told its name. */
  begun: boolean;
  /** It is stopped as soon as it has begun. */
  stopping: boolean;
  /** Nothing was heard of what was sent. */
  lost: boolean;
}

let pending = 0;

export class ConversationStore {
  readonly store;
  private readonly runs = new Map<string, Run>();
  /** How often a reply began or ended: what was loaded meanwhile is older than that. */
  private turns = 0;
  private away = false;

  constructor(id: string | null) {
    this.store = createStore<ConversationState>(() => ({
      id,
      title: "",
      messages: [],
      choices: savedChoices(id),
      shown: WINDOW,
      loaded: id === null,
      missing: false,
      failure: null,
      returned: null,
    }));
  }

  get state(): ConversationState {
    return this.store.getState();
  }

  /** Whether a reply is under way. */
  get busy(): boolean {
    return this.runs.size > 0;
  }

  /** The growing text of a reply; null when it does not grow. */
  live(message: string): Live | null {
    return this.runs.get(message)?.live ?? null;
  }

  /** It comes onto the screen. */
  async show(): Promise<void> {
    this.away = false;
    await this.load();
  }

  /**
   * It goes from the screen. Its replies go on at the server, and are not followed here: a browser has six connections
   * to a server, for all of its tabs.
   */
  leave(): void {
    this.away = true;
    for (const run of this.runs.values()) if (run.begun) run.controller.abort();
  }

  /** What the server has now. Replies under way are followed. */
  async load(): Promise<void> {
    const { id } = this.state;
    if (id === null) return;
    const { turns } = this;
    try {
      const tree = await request<Tree>(`/api/conversations/${id}`);
      if (turns !== this.turns) return this.load();
      const mine = new Map(this.state.messages.filter((each) => this.runs.has(each.id)).map((each) => [each.id, each]));
      const found = merged(this.state.messages, tree.messages).map((each) => mine.get(each.id) ?? each);
      const ids = new Set(found.map((each) => each.id));
      const unsent = [...mine.values()].filter((each) => !ids.has(each.id));
      const asked = this.state.messages.filter(
        (each) => unsent.some((reply) => reply.parent === each.id) && !ids.has(each.id),
      );
      this.set({
        title: tree.conversation.title,
        messages: [...found, ...asked, ...unsent],
        loaded: true,
        missing: false,
      });
      for (const message of found) {
        const followed = this.away || this.runs.has(message.id);
        if (message.status === "streaming" && !followed) void this.run(message, null);
      }
    } catch (error) {
      if (error instanceof ApiError && error.status === 404) this.set({ missing: true, loaded: true });
      else if (!(error instanceof Unreachable)) this.fail(error); // the page says so, and it is loaded later
    }
  }

  /** Say something after `parent` and have it answered. created: told the id of a conversation that is new. */
  async ask(draft: Draft, parent: string | null, options: ReplyOptions, created?: (id: string) => void): Promise<void> {
    const body: NewReply = { ...options, content: draft.text, parent };
    if (draft.attachments.length > 0) body.attachments = draft.attachments;
    const before = new Set(this.state.messages.map((each) => each.id));
    const question = blank(`pending-question-${++pending}`, parent, "user", draft);
    const reply = { ...blank(`pending-reply-${pending}`, question.id, "assistant"), status: "streaming" as const };
    this.set({
      messages: [...this.state.messages, question, reply],
      choices: chooseNewest(this.state.choices, parent),
      failure: null,
    });
    saveChoices(this.state);
    let sent: Run | null = null as Run | null;
    const begun = await this.run(reply, async (run) => {
      sent = run;
      if (this.state.id === null) {
        const { signal } = run.controller;
        const made = await request<Conversation>("/api/conversations", { method: "POST", body: {}, signal });
        this.set({ id: made.id });
        conversations.set(made.id, this);
        created?.(made.id);
      }
      return begin(run, `/api/conversations/${this.state.id}/replies`, body, options.model);
    });
    if (begun || (sent?.lost && (await this.arrived(draft, parent, before)))) return;
    this.set({ returned: draft });
  }

  /** Whether a question came to the server all the same, although the connection was lost before it said so. */
  private async arrived(draft: Draft, parent: string | null, before: ReadonlySet<string>): Promise<boolean> {
    await this.load();
    const there = this.state.messages.some(
      (each) => !before.has(each.id) && each.role === "user" && each.parent === parent && each.content === draft.text,
    );
    if (there) this.set({ failure: null });
    return there;
  }

  /** Another version of a reply. */
  async answerAgain(message: Message, options: ReplyOptions): Promise<void> {
    const reply = { ...blank(`pending-reply-${++pending}`, message.parent, "assistant"), status: "streaming" as const };
    this.set({
      messages: [...this.state.messages, reply],
      choices: chooseNewest(this.state.choices, message.parent),
      failure: null,
    });
    saveChoices(this.state);
    const body: NewReply = { ...options, parent: message.parent };
    await this.run(reply, (run) => begin(run, `/api/conversations/${this.state.id}/replies`, body, options.model));
  }

  /** The same reply goes on where it ended. */
  async continue(message: Message, { model: _model, ...options }: ReplyOptions): Promise<void> {
    this.set({ failure: null });
    const growing = { ...message, status: "streaming" as const };
    this.replace(message.id, growing);
    const path = `/api/replies/${message.id}/continue`;
    const begun = await this.run(growing, (run) => begin(run, path, options, message.model ?? undefined));
    if (!begun) this.replace(message.id, message);
  }

  async stop(message: Message): Promise<void> {
    const run = this.runs.get(message.id);
    if (run && !run.begun) {
      if (run.sent) run.stopping = true;
      else run.controller.abort();
    } else {
      try {
        await request(`/api/replies/${message.id}/stop`, { method: "POST" });
      } catch (error) {
        if (error instanceof ApiError && error.status === 404) await this.load();
        else this.fail(error);
      }
    }
  }

  choose(message: Message): void {
    this.set({ choices: choose(this.state.choices, message) });
    saveChoices(this.state);
  }

  showEarlier(): void {
    this.set({ shown: this.state.shown + WINDOW });
  }

  dismiss(): void {
    this.set({ failure: null });
  }

  takeReturned(): Draft | null {
    const { returned } = this.state;
    if (returned !== null) this.set({ returned: null });
    return returned;
  }

  fail(error: unknown): void {
    this.set({ failure: reason(error) });
  }

  /** ask: null to follow what is under way. Whether it began; else `reply` is gone again, or is the caller's. */
  private async run(reply: Message, ask: ((run: Run) => Promise<Response>) | null): Promise<boolean> {
    const live = new Live();
    const controller = new AbortController();
    const run: Run = { live, controller, sent: ask === null, begun: ask === null, stopping: false, lost: false };
    const { signal } = controller;
    let at = reply;
    this.runs.set(at.id, run);
    this.touch();
    let finish: Finish | null = null;
    try {
      const first = ask === null ? null : await ask(run);
      const following = { signal, onConnection: (there: boolean) => live.setConnected(there) };
      for await (const event of replyEvents(first, following, ask === null ? reply.id : null)) {
        if (event.kind === "begin") {
          live.take(event);
          at = this.named(at, event);
          this.began(run, at);
        } else if (event.kind === "finish") finish = event;
        else live.take(event);
      }
    } catch (error) {
      if (!run.begun) this.forget(reply);
      run.lost = run.sent && error instanceof Unreachable;
      if (!signal.aborted && !(run.begun && error instanceof ApiError && error.status === 404)) this.fail(error);
    } finally {
      live.flush();
      this.runs.delete(at.id);
      this.touch();
    }
    if (finish !== null) this.replace(at.id, ended(at, live, finish));
    else if (signal.aborted) this.replace(at.id, { ...at, ...text(at, live) });
    else if (run.begun) await this.load(); // the server knows no more of it: what it kept is in the conversation
    if (run.begun && !signal.aborted) announce();
    return run.begun;
  }

  private began(run: Run, reply: Message): void {
    if (!run.begun) announce();
    run.begun = true;
    this.turns += 1;
    if (run.stopping) void this.stop(reply);
    run.stopping = false;
    if (this.away) run.controller.abort();
  }

  /** The server's names for what was sent. */
  private named(reply: Message, event: Extract<ReplyEvent, { kind: "begin" }>): Message {
    if (reply.id === event.message) {
      this.replace(reply.id, reply);
      return reply;
    }
    const question = event.question ?? reply.parent;
    const named = { ...reply, id: event.message, parent: question, model: event.model };
    const known = new Set(this.state.messages.map((each) => each.id));
    const run = this.runs.get(reply.id);
    this.runs.delete(reply.id);
    if (run !== undefined) this.runs.set(named.id, run);
    const messages = this.state.messages.flatMap((each) => {
      if (each.id === reply.id) return known.has(named.id) ? [] : [named];
      if (each.id === reply.parent && question !== null)
        return known.has(question) && question !== each.id ? [] : [{ ...each, id: question }];
      return [each];
    });
    this.set({ messages });
    return named;
  }

  private replace(id: string, message: Message): void {
    this.set({ messages: this.state.messages.map((each) => (each.id === id ? message : each)) });
  }

  /** What was not taken by the server is no part of the conversation. */
  private forget(reply: Message): void {
    if (!reply.id.startsWith("pending-")) return;
    const gone = new Set([reply.id, ...(reply.parent?.startsWith("pending-") ? [reply.parent] : [])]);
    this.set({ messages: this.state.messages.filter((each) => !gone.has(each.id)) });
  }

  /** Tell those who show messages that a reply's growing began or ended. */
  private touch(): void {
    this.turns += 1;
    this.set({ messages: [...this.state.messages] });
  }

  private set(values: Partial<ConversationState>): void {
    this.store.setState(values);
  }
}

function blank(id: string, parent: string | null, role: "user" | "assistant", draft?: Draft): Message {
  return {
    id,
    conversation: "",
    parent,
    role,
    content: draft?.text ?? "",
    reasoning: "",
    attachments: draft?.attachments ?? [],
    tool_calls: [],
    tool_call_id: null,
    model: null,
    status: "complete",
    finish_reason: null,
    usage: null,
    thought_seconds: 0,
    seconds: null,
    created: Date.now() / 1000,
  };
}

/** Asks the server for a reply, once its model can answer. */
async function begin(run: Run, path: string, body: unknown, model?: string): Promise<Response> {
  const { signal } = run.controller;
  await modelReady(signal, model);
  run.sent = true;
  return send(path, { method: "POST", body, signal });
}

/** What there is of a reply that is no longer followed. */
function text(message: Message, { state }: Live) {
  return {
    content: grown(message.content, state.content),
    reasoning: grown(message.reasoning, state.reasoning),
  };
}

function ended(message: Message, live: Live, finish: Finish): Message {
  return {
    ...message,
    content: live.state.content,
    reasoning: live.state.reasoning,
    status: finish.status,
    finish_reason: finish.finish_reason,
    usage: finish.usage,
    thought_seconds: finish.thought_seconds,
    seconds: finish.seconds,
    failure: finish.error && refusal(finish.error.code, finish.error.message),
  };
}

/** The branch on the screen, and each message's versions. */
export function shownBranches(state: ConversationState) {
  return branches(state.messages, state.choices);
}

// Choices outlive a reload of the page, in its tab.
const CHOICES = "millet.choices.";

export function savedChoices(id: string | null): Choices {
  if (id === null) return new Map();
  try {
    return new Map(JSON.parse(sessionStorage.getItem(CHOICES + id) ?? "[]"));
  } catch {
    return new Map();
  }
}

function saveChoices({ id, choices }: ConversationState): void {
  if (id !== null) sessionStorage.setItem(CHOICES + id, JSON.stringify([...choices]));
}

const KEPT = 8; // conversations in memory, besides those whose replies are under way
const conversations = new Map<string, ConversationStore>();

/** The conversation of this id, as it was left; it is loaded anew. */
export function openConversation(id: string): ConversationStore {
  let found = conversations.get(id);
  if (found === undefined) found = new ConversationStore(id);
  conversations.delete(id);
  conversations.set(id, found); // the last one is the newest in use
  for (const [key, each] of conversations) {
    if (conversations.size <= KEPT) break;
    if (each !== found && !each.busy) conversations.delete(key);
  }
  return found;
}

/** Another person may come. */
export function forgetConversations(): void {
  for (const each of conversations.values()) each.leave();
  conversations.clear();
}
