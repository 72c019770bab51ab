/** One conversation: its messages, the branch that is shown, and the replies on their way into it. */

import { createStore } from "zustand/vanilla";
import { ApiError, request, send } from "../api/client";
import { replyEvents } from "../api/stream";
import type { Attachment, Conversation, Message, NewReply, ReplyEvent, ReplyOptions, Tree } from "../api/types";
import { announce } from "./changes";
import { Live } from "./live";
import { modelReady } from "./models";
import { branches, type Choices, choose, chooseNewest, merged } from "./tree";

/** Messages that are drawn at first, and more at each wish for earlier ones. */
export const WINDOW = 40;

export interface Draft {
  text: string;
  attachments: Attachment[];
}

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

let pending = 0;

export class ConversationStore {
  readonly store;
  private readonly lives = new Map<string, Live>();
  private readonly controllers = new Map<string, AbortController>();

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
    return this.lives.size > 0;
  }

  /** The growing text of a reply; null when it does not grow. */
  live(message: string): Live | null {
    return this.lives.get(message) ?? null;
  }

  /** What the server has now. Replies under way are followed. */
  async load(): Promise<void> {
    const { id } = this.state;
    if (id === null) return;
    try {
      const tree = await request<Tree>(`/api/conversations/${id}`);
      const mine = new Map(
        this.state.messages.filter((each) => this.lives.has(each.id)).map((each) => [each.id, each]),
      );
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
        if (message.status === "streaming" && !this.lives.has(message.id)) void this.follow(message);
      }
    } catch (error) {
      if (error instanceof ApiError && error.status === 404) this.set({ missing: true, loaded: true });
      else this.fail(error);
    }
  }

  /** Say something after `parent` and have it answered. created: told the id of a conversation that is new. */
  async ask(draft: Draft, parent: string | null, options: ReplyOptions, created?: (id: string) => void): Promise<void> {
    const body: NewReply = { ...options, content: draft.text, parent };
    if (draft.attachments.length > 0) body.attachments = draft.attachments;
    const question = blank(`pending-question-${++pending}`, parent, "user", draft);
    const reply = { ...blank(`pending-reply-${pending}`, question.id, "assistant"), status: "streaming" as const };
    this.set({
      messages: [...this.state.messages, question, reply],
      choices: chooseNewest(this.state.choices, parent),
      failure: null,
    });
    const sent = await this.run(reply, async (signal) => {
      if (this.state.id === null) {
        const made = await request<Conversation>("/api/conversations", { method: "POST", body: {}, signal });
        this.set({ id: made.id });
        conversations.set(made.id, this);
        created?.(made.id);
      }
      await modelReady(signal);
      return send(`/api/conversations/${this.state.id}/replies`, { method: "POST", body, signal });
    });
    if (!sent) this.set({ returned: draft });
  }

  /** Another version of a reply. */
  async answerAgain(message: Message, options: ReplyOptions): Promise<void> {
    const reply = { ...blank(`pending-reply-${++pending}`, message.parent, "assistant"), status: "streaming" as const };
    this.set({
      messages: [...this.state.messages, reply],
      choices: chooseNewest(this.state.choices, message.parent),
      failure: null,
    });
    const body: NewReply = { ...options, parent: message.parent };
    await this.run(reply, async (signal) => {
      await modelReady(signal);
      return send(`/api/conversations/${this.state.id}/replies`, { method: "POST", body, signal });
    });
  }

  /** The same reply goes on where it ended. */
  async continue(message: Message, { model: _model, ...options }: ReplyOptions): Promise<void> {
    this.set({ failure: null });
    const growing = { ...message, status: "streaming" as const };
    this.replace(message.id, growing);
    const begun = await this.run(growing, async (signal) => {
      await modelReady(signal);
      return send(`/api/replies/${message.id}/continue`, {
        method: "POST",
        body: options,
        signal,
      });
    });
    if (!begun) this.replace(message.id, message);
  }

  async stop(message: Message): Promise<void> {
    if (message.id.startsWith("pending-")) this.controllers.get(message.id)?.abort();
    else {
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
    this.set({ failure: error instanceof Error ? error.message : String(error) });
  }

  private async follow(message: Message): Promise<void> {
    await this.run(message, null);
  }

  /** Whether the reply began. Where it did not, `reply` is gone again, or what stood in its place is the caller's. */
  private async run(reply: Message, begin: ((signal: AbortSignal) => Promise<Response>) | null): Promise<boolean> {
    const live = new Live();
    const controller = new AbortController();
    let at = reply;
    this.lives.set(at.id, live);
    this.controllers.set(at.id, controller);
    this.touch();
    let begun = begin === null;
    let finish: Finish | null = null;
    try {
      const first = begin === null ? null : await begin(controller.signal);
      const following = { signal: controller.signal, onConnection: (there: boolean) => live.setConnected(there) };
      for await (const event of replyEvents(first, following, begin === null ? reply.id : null)) {
        if (event.kind === "begin") {
          live.take(event);
          at = this.named(at, event);
          if (begin !== null && !begun) announce();
          begun = true;
        } else if (event.kind === "finish") finish = event;
        else live.take(event);
      }
    } catch (error) {
      if (!begun) this.forget(reply);
      if (!controller.signal.aborted && !(begun && error instanceof ApiError && error.status === 404)) this.fail(error);
    } finally {
      live.flush();
      this.lives.delete(at.id);
      this.controllers.delete(at.id);
      this.touch();
    }
    if (finish !== null) this.replace(at.id, ended(at, live, finish));
    else if (begun) await this.load(); // the server knows no more of it: what it kept is in the conversation
    if (begun) announce();
    return begun;
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
    this.move(this.lives, reply.id, named.id);
    this.move(this.controllers, reply.id, named.id);
    const messages = this.state.messages.flatMap((each) => {
      if (each.id === reply.id) return known.has(named.id) ? [] : [named];
      if (each.id === reply.parent && question !== null)
        return known.has(question) && question !== each.id ? [] : [{ ...each, id: question }];
      return [each];
    });
    this.set({ messages });
    return named;
  }

  private move<T>(map: Map<string, T>, from: string, to: string): void {
    const value = map.get(from);
    map.delete(from);
    if (value !== undefined) map.set(to, value);
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
    failure: finish.error?.message ?? null,
  };
}

/** The branch on the screen, and each message's versions. */
export function shownBranches(state: ConversationState) {
  return branches(state.messages, state.choices);
}

// Choices outlive a reload of the page, in its tab.
const CHOICES = "millet.choices.";

function savedChoices(id: string | null): Choices {
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
