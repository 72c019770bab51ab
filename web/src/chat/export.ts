/** Conversations as files. */

import { request, send } from "../api/client";
import type { Message, Tree } from "../api/types";
import { texts } from "../i18n";
import { savedChoices } from "./conversation";
import { branches } from "./tree";

/** As the server has it now: the branch that was chosen in this tab, else the newest. */
async function branchOf(id: string): Promise<{ title: string; path: Message[] }> {
  const { conversation, messages } = await request<Tree>(`/api/conversations/${id}`);
  return { title: conversation.title || texts().untitled, path: branches(messages, savedChoices(id)).path };
}

export async function exportMarkdown(id: string): Promise<void> {
  const { title, path } = await branchOf(id);
  const last = path.at(-1);
  if (last === undefined) return;
  const response = await send(`/api/conversations/${id}/export.md?message=${last.id}`);
  download(await response.blob(), title, "md");
}

export async function exportJson(id: string): Promise<void> {
  const { title } = await branchOf(id);
  const response = await send(`/api/conversations/${id}/export`);
  download(await response.blob(), title, "json");
}

export async function shareAsPage(id: string): Promise<void> {
  const { title, path } = await branchOf(id);
  const { shareConversation } = await import("../share/share");
  download(await shareConversation(title, path), title, "html");
}

function download(blob: Blob, title: string, extension: string): void {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = `${fileName(title)}.${extension}`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

/** What every file system takes. */
export function fileName(title: string): string {
  const name = title
    // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what must go
    .replace(/[\u0000-\u001f\u007f<>:"/\\|?*\u200e\u200f\u202a-\u202e\u2066-\u2069]+/g, " ")
    .replace(/\s+/g, " ")
    .replace(/^[. ]+|[. ]+$/g, "");
  return [...name].slice(0, 80).join("").trim() || "conversation";
}
