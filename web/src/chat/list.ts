/** The list of conversations, and what was searched for in it. */

import { useStore } from "zustand";
import { createStore } from "zustand/vanilla";
import { request } from "../api/client";
import type { Conversation, Hit, Page } from "../api/types";
import { announce } from "./changes";

interface List {
  conversations: readonly Conversation[];
  next: string | null;
  loaded: boolean;
  /** null: nothing is searched for. */
  query: string | null;
  hits: readonly Hit[];
  searching: boolean;
}

export const list = createStore<List>(() => ({
  conversations: [],
  next: null,
  loaded: false,
  query: null,
  hits: [],
  searching: false,
}));

/** Another person may come. */
export function forgetList(): void {
  list.setState(list.getInitialState(), true);
}

export function useList(): List {
  return useStore(list);
}

/** The newest again, as many as are shown. */
export async function refreshList(): Promise<void> {
  const shown = Math.min(200, Math.max(50, list.getState().conversations.length));
  const page = await request<Page>(`/api/conversations?limit=${shown}`);
  list.setState({ ...page, loaded: true });
}

export async function loadMore(): Promise<void> {
  const { next, conversations } = list.getState();
  if (next === null) return;
  const page = await request<Page>(`/api/conversations?after=${encodeURIComponent(next)}`);
  const known = new Set(conversations.map((each) => each.id));
  const added = page.conversations.filter((each) => !known.has(each.id));
  list.setState({ conversations: [...conversations, ...added], next: page.next });
}

let latest = 0;

export async function search(query: string): Promise<void> {
  const mine = ++latest;
  if (query.trim() === "") {
    list.setState({ query: null, hits: [], searching: false });
    return;
  }
  list.setState({ query, searching: true });
  try {
    const hits = await request<Hit[]>(`/api/conversations/search?q=${encodeURIComponent(query)}&limit=50`);
    if (mine === latest) list.setState({ hits });
  } finally {
    if (mine === latest) list.setState({ searching: false });
  }
}

export async function rename(id: string, title: string): Promise<void> {
  await request(`/api/conversations/${id}`, { method: "PATCH", body: { title } });
  announce();
  await refreshList();
}

export async function remove(id: string): Promise<void> {
  await request(`/api/conversations/${id}`, { method: "DELETE" });
  const { conversations, hits } = list.getState();
  list.setState({
    conversations: conversations.filter((each) => each.id !== id),
    hits: hits.filter((hit) => hit.conversation !== id),
  });
  announce();
}

export async function restore(id: string): Promise<void> {
  await request(`/api/conversations/${id}/restore`, { method: "POST" });
  announce();
  await refreshList();
}

/** document: what an export wrote. */
export async function importConversation(document: unknown): Promise<Conversation> {
  const made = await request<Conversation>("/api/conversations/import", { method: "POST", body: document });
  announce();
  await refreshList();
  return made;
}
