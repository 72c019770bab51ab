import type { Message } from "../src/api/types";

/** A message for tests. */
export function message(id: string, parent: string | null, more: Partial<Message> = {}): Message {
  return {
    id,
    conversation: "c",
    parent,
    role: "user",
    content: id,
    reasoning: "",
    attachments: [],
    tool_calls: [],
    tool_call_id: null,
    model: null,
    status: "complete",
    finish_reason: null,
    usage: null,
    thought_seconds: 0,
    seconds: null,
    created: 0,
    ...more,
  };
}
