/** What the server's own routes speak; docs/api.md describes them. */

export interface Usage {
  prompt_tokens: number;
  completion_tokens: number;
  reasoning_tokens: number;
  cached_tokens: number;
}

export interface Attachment {
  name: string;
  text: string;
}

export type Role = "system" | "user" | "assistant" | "tool";
export type Status = "complete" | "streaming" | "stopped" | "interrupted" | "failed";

export interface ToolCall {
  id: string;
  name: string;
  arguments: string;
}

export interface Message {
  id: string;
  conversation: string;
  parent: string | null;
  role: Role;
  content: string;
  reasoning: string;
  attachments: Attachment[];
  tool_calls: ToolCall[];
  tool_call_id: string | null;
  model: string | null;
  status: Status;
  finish_reason: string | null;
  usage: Usage | null;
  thought_seconds: number;
  seconds: number | null;
  created: number;
  /** Why a reply failed, as its stream told; the server does not keep it. */
  failure?: string | null;
}

export interface Conversation {
  id: string;
  title: string;
  created: number;
  updated: number;
}

export interface Tree {
  conversation: Conversation;
  messages: Message[];
}

export interface Page {
  conversations: Conversation[];
  next: string | null;
}

/** Something found. message: null where the title was; snippet: the text around the first word found. */
export interface Hit {
  conversation: string;
  title: string;
  message: string | null;
  snippet: string;
  created: number;
}

export interface Progress {
  step: "download" | "load";
  done: number | null;
  total: number | null;
}

export interface Model {
  name: string;
  default: boolean;
  state: "loading" | "ready" | "unreachable";
  progress: Progress | null;
  context_length: number | null;
  thinks: string | null;
  licence: string | null;
  languages: string[] | null;
  description: string | null;
}

export type Think = "off" | "auto" | "on" | number;

/** What a reply may be asked with. */
export interface ReplyOptions {
  model?: string;
  think?: Think;
  max_tokens?: number;
  temperature?: number;
  top_p?: number;
  system?: string;
}

export interface NewReply extends ReplyOptions {
  content?: string;
  parent?: string | null;
  attachments?: Attachment[];
}

export interface Count {
  prompt_tokens: number | null;
  context_length: number | null;
  fits: boolean;
}

/** The events of a reply's stream. */
export type ReplyEvent =
  | { kind: "begin"; message: string; model: string; question?: string; thought_seconds: number }
  | { kind: "reasoning" | "content"; text: string; tokens: number; number: number }
  | { kind: "tool_call"; tool_call: ToolCall; number: number }
  | { kind: "waiting"; position: number; seconds: number | null }
  | {
      kind: "finish";
      number: number;
      status: Status;
      finish_reason: string | null;
      usage: Usage | null;
      thought_seconds: number;
      seconds: number | null;
      error: { message: string; code: string | null } | null;
    };

/** Null sets no limit. */
export interface Limits {
  concurrency: number | null;
  requests_per_minute: number | null;
  tokens_per_minute: number | null;
  spend_per_day: number | null;
}

export interface Account {
  id: string;
  name: string;
  role: "member" | "admin";
  disabled: boolean;
  limits: Limits;
  balance: number | null;
  created: number;
}

export interface Me {
  account: Account | null;
  role: string;
  one_person: boolean;
  csrf: string | null;
  /** Of costs, balances and limits of spending; null where nothing costs anything. */
  currency: string | null;
}
