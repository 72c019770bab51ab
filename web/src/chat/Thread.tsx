/** The conversation on the screen: its last messages, earlier ones at a wish, and the box to write in. */

import {
  type AppendMessage,
  AssistantRuntimeProvider,
  type ThreadMessageLike,
  ThreadPrimitive,
  useExternalStoreRuntime,
} from "@assistant-ui/react";
import { useEffect, useMemo, useRef } from "react";
import { useLocation } from "wouter";
import { useStore } from "zustand";
import type { Message } from "../api/types";
import { useTexts } from "../i18n";
import { icons } from "../icons";
import { Announcer } from "./Announcer";
import { type Attaching, useAttaching } from "./attaching";
import { Composer } from "./Composer";
import { ShownContext } from "./context";
import { type ConversationStore, shownBranches } from "./conversation";
import { AssistantMessage, EditComposer, UserMessage } from "./Messages";
import { models } from "./models";
import { preferences, replyOptions } from "./preferences";

const COMPONENTS = {
  UserMessage,
  AssistantMessage,
  SystemMessage: UserMessage,
  UserEditComposer: EditComposer,
};

/** What the library holds of a message: its place and role. The text of replies it need not know. */
function convert(message: Message): ThreadMessageLike {
  if (message.role === "assistant") {
    return { id: message.id, role: "assistant", content: "", status: { type: "complete", reason: "stop" } };
  }
  const role = message.role === "user" ? "user" : "system";
  return { id: message.id, role, content: [{ type: "text", text: message.content }] };
}

const options = () =>
  replyOptions(
    preferences.getState(),
    models.getState().models.map((model) => model.name),
  );

function textOf(message: AppendMessage): string {
  return message.content.map((part) => (part.type === "text" ? part.text : "")).join("");
}

/** A new conversation's address, unless the person has gone elsewhere since. */
function toItsAddress(navigate: (to: string, options: { replace: boolean }) => void): (id: string) => void {
  return (id) => {
    if (window.location.pathname === "/") navigate(`/c/${id}`, { replace: true });
  };
}

export function Thread({ store }: { store: ConversationStore }) {
  const t = useTexts();
  const state = useStore(store.store);
  const [, navigate] = useLocation();
  const attaching = useAttaching();
  const { path, versions } = useMemo(() => shownBranches(state), [state]);
  const last = path.at(-1) ?? null;
  const shown = useMemo(
    () => ({ store, byId: new Map(path.map((each) => [each.id, each])), versions, last, options }),
    [store, path, versions, last],
  );
  const running = last?.status === "streaming";

  const runtime = useExternalStoreRuntime<Message>({
    messages: path.slice(-state.shown),
    convertMessage: convert,
    isRunning: running,
    // What is asked before it is known what was said would be asked at the beginning.
    isSendDisabled: !attaching.ready || !state.loaded,
    onNew: async (message) => {
      const attachments = attaching.take();
      const draft = { text: textOf(message), attachments };
      await store.ask(draft, last?.id ?? null, options(), toItsAddress(navigate));
    },
    onEdit: async (message) => {
      const edited = path.find((each) => each.id === message.sourceId);
      if (edited === undefined) return;
      const draft = { text: textOf(message), attachments: edited.attachments };
      await store.ask(draft, edited.parent, options());
    },
  });

  if (state.missing) {
    return (
      <div className="notice" role="alert">
        {t.notFound}
      </div>
    );
  }
  return (
    <AssistantRuntimeProvider runtime={runtime}>
      <ShownContext value={shown}>
        <ThreadPrimitive.Root className="thread" data-running={running || undefined}>
          <ThreadPrimitive.Viewport className="viewport" id="conversation" tabIndex={-1}>
            {path.length > state.shown && <Earlier store={store} />}
            {path.length === 0 && state.loaded && <Welcome store={store} attaching={attaching} />}
            <ThreadPrimitive.Messages components={COMPONENTS} />
            <div className="foot">
              <ThreadPrimitive.ScrollToBottom asChild>
                <button type="button" className="icon to-end" aria-label={t.scrollDown} title={t.scrollDown}>
                  {icons.toEnd}
                </button>
              </ThreadPrimitive.ScrollToBottom>
            </div>
          </ThreadPrimitive.Viewport>
          <Composer store={store} last={last} attaching={attaching} options={options} />
          <Announcer last={last} live={last === null ? null : store.live(last.id)} />
        </ThreadPrimitive.Root>
      </ShownContext>
    </AssistantRuntimeProvider>
  );
}

/** Draws earlier messages when it comes into sight, and keeps in place what is read. */
function Earlier({ store }: { store: ConversationStore }) {
  const t = useTexts();
  const ref = useRef<HTMLButtonElement>(null);
  useEffect(() => {
    const button = ref.current;
    const viewport = button?.closest(".viewport");
    if (!button || !viewport) return;
    const observer = new IntersectionObserver(
      (entries) => {
        if (entries.some((entry) => entry.isIntersecting)) store.showEarlier();
      },
      { root: viewport, rootMargin: "200px" },
    );
    // The first look would find it in sight before the thread has scrolled to its end.
    const timer = setTimeout(() => observer.observe(button), 1000);
    return () => {
      clearTimeout(timer);
      observer.disconnect();
    };
  }, [store]);
  return (
    <button ref={ref} type="button" className="quiet earlier" onClick={() => store.showEarlier()}>
      {t.earlierMessages}
    </button>
  );
}

function Welcome({ store, attaching }: { store: ConversationStore; attaching: Attaching }) {
  const t = useTexts();
  const [, navigate] = useLocation();
  const ask = (text: string) =>
    store.ask({ text, attachments: attaching.take() }, null, options(), toItsAddress(navigate));
  return (
    <div className="welcome">
      <h2>{t.greeting}</h2>
      <p>{t.greetingHint}</p>
      <ul>
        {t.suggestions.map((text) => (
          <li key={text}>
            <button type="button" onClick={() => void ask(text)}>
              {text}
            </button>
          </li>
        ))}
      </ul>
    </div>
  );
}
