/**
 * A conversation as a tree of messages. Siblings are versions: an edited question, or another reply. What is on the
 * screen is one path from the root; where a message has several children, the chosen one is on it, else the newest.
 */

import type { Message } from "../api/types";

/** Parent ("" for none) to the chosen child. */
export type Choices = ReadonlyMap<string, string>;

export interface Branches {
  /** From the first message to the last of the branch that is shown. */
  path: Message[];
  /** All versions of a message, itself among them, oldest first. */
  versions: (message: Message) => readonly Message[];
}

const ROOT = "";

/** messages: parents before their children, oldest first, as the server gives them. */
export function branches(messages: readonly Message[], choices: Choices): Branches {
  const children = new Map<string, Message[]>();
  for (const message of messages) {
    const parent = message.parent ?? ROOT;
    const siblings = children.get(parent);
    if (siblings) siblings.push(message);
    else children.set(parent, [message]);
  }
  const path: Message[] = [];
  let at = ROOT;
  for (;;) {
    const below = children.get(at);
    if (!below) break;
    const chosen = choices.get(at);
    const next = below.find((message) => message.id === chosen) ?? (below.at(-1) as Message);
    path.push(next);
    at = next.id;
  }
  return { path, versions: (message) => children.get(message.parent ?? ROOT) ?? [] };
}

/** With `message` on the path. */
export function choose(choices: Choices, message: Message): Choices {
  return new Map(choices).set(message.parent ?? ROOT, message.id);
}

/** Without a choice among `parent`'s children, so that the newest is shown. */
export function chooseNewest(choices: Choices, parent: string | null): Choices {
  const changed = new Map(choices);
  changed.delete(parent ?? ROOT);
  return changed;
}

/** What a reload found, with the objects of before where nothing changed, so that they are not drawn again. */
export function merged(before: readonly Message[], found: readonly Message[]): Message[] {
  const known = new Map(before.map((message) => [message.id, message]));
  return found.map((message) => {
    const old = known.get(message.id);
    return old !== undefined && same(old, message) ? old : message;
  });
}

function same(a: Message, b: Message): boolean {
  return (
    a.status === b.status &&
    a.content === b.content &&
    a.reasoning === b.reasoning &&
    a.finish_reason === b.finish_reason &&
    a.tool_calls.length === b.tool_calls.length &&
    (a.usage === null) === (b.usage === null)
  );
}
