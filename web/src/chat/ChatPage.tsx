/** The chat: the list of conversations beside the one that is open. */

import { useEffect, useMemo, useRef, useState, useSyncExternalStore } from "react";
import { useLocation, useParams } from "wouter";
import { useStore } from "zustand";
import { useTexts } from "../i18n";
import { icons } from "../icons";
import { useSession } from "../session";
import { Toasts } from "../toast";
import { useFocusBack } from "../useFocusBack";
import { watchChanges } from "./changes";
import { ConversationStore, openConversation } from "./conversation";
import { refreshList, rename, useList } from "./list";
import { watchModels } from "./models";
import { preferences, usePreferences } from "./preferences";
import { Settings, Shortcuts } from "./Settings";
import { ConversationActions, Menu, Sidebar } from "./Sidebar";
import { Thread } from "./Thread";
import "../styles/chat.css";
import "../styles/composer.css";
import "../styles/list.css";

const WIDE = "(min-width: 56rem)";

function useMedia(query: string): boolean {
  return useSyncExternalStore(
    (listener) => {
      const media = window.matchMedia(query);
      media.addEventListener("change", listener);
      return () => media.removeEventListener("change", listener);
    },
    () => window.matchMedia(query).matches,
  );
}

type Dialog = "settings" | "shortcuts" | null;

export function ChatPage() {
  const t = useTexts();
  const { me } = useSession();
  const id = useParams<{ id?: string }>().id ?? null;
  const [, navigate] = useLocation();
  const store = useMemo(() => (id === null ? new ConversationStore(null) : openConversation(id)), [id]);
  const { sidebar } = usePreferences();
  const wide = useMedia(WIDE);
  const [drawer, setDrawer] = useState(false);
  const [dialog, setDialog] = useState<Dialog>(null);
  const [reachable, setReachable] = useState(true);
  const signedIn = me.one_person || me.account !== null;

  useEffect(() => {
    if (!signedIn) navigate(`/login?next=${encodeURIComponent(window.location.pathname)}`, { replace: true });
  }, [signedIn, navigate]);

  useEffect(() => {
    if (signedIn) void watchModels();
  }, [signedIn]);

  useEffect(() => {
    const look = () => {
      if (document.visibilityState === "hidden") store.leave();
      else void store.show();
    };
    look();
    document.addEventListener("visibilitychange", look);
    return () => {
      document.removeEventListener("visibilitychange", look);
      store.leave();
    };
  }, [store]);

  const open = useRef(store);
  open.current = store;
  useEffect(() => {
    if (!signedIn) return;
    void refreshList().catch(() => {});
    return watchChanges({
      conversation: () => open.current.state.id,
      onList: () => void refreshList().catch(() => {}),
      onConversation: (changed) => {
        if (open.current.state.id === changed) void open.current.load();
      },
      onReachable: (now) => {
        setReachable(now);
        if (now) void watchModels();
      },
    });
  }, [signedIn]);

  const toggleSidebar = () => {
    if (wide) preferences.setState({ sidebar: !sidebar });
    else setDrawer(true);
  };
  useShortcuts({
    newChat: () => navigate("/"),
    search: () => {
      if (wide) preferences.setState({ sidebar: true });
      else setDrawer(true);
      requestAnimationFrame(() => document.getElementById("search")?.focus());
    },
    sidebar: toggleSidebar,
    help: () => setDialog("shortcuts"),
  });

  if (!signedIn) return null;
  const list = <Sidebar current={id} onChoose={() => setDrawer(false)} onSettings={() => setDialog("settings")} />;
  return (
    <div className="chat" data-sidebar={(wide && sidebar) || undefined}>
      <a className="skip" href="#conversation">
        {t.skip}
      </a>
      {wide && sidebar && <aside aria-label={t.conversations}>{list}</aside>}
      {!wide && drawer && <Drawer onClose={() => setDrawer(false)}>{list}</Drawer>}
      <main>
        <header className="top">
          <button
            type="button"
            className="quiet icon"
            aria-label={wide && sidebar ? t.closeSidebar : t.openSidebar}
            aria-expanded={wide ? sidebar : drawer}
            onClick={toggleSidebar}
          >
            {icons.menu}
          </button>
          <Title key={keyOf(store)} store={store} />
          <button
            type="button"
            className="quiet icon"
            aria-label={t.newChat}
            title={t.newChat}
            onClick={() => navigate("/")}
          >
            {icons.plus}
          </button>
        </header>
        {!reachable && (
          <p className="banner" role="status">
            {t.serverGone}
          </p>
        )}
        <Thread key={keyOf(store)} store={store} />
      </main>
      {dialog === "settings" && <Settings onClose={() => setDialog(null)} />}
      {dialog === "shortcuts" && <Shortcuts onClose={() => setDialog(null)} />}
      <Toasts />
    </div>
  );
}

const keys = new WeakMap<ConversationStore, number>();
let made = 0;

/** A new conversation keeps its thread when it gets its id. */
function keyOf(store: ConversationStore): number {
  const known = keys.get(store);
  if (known !== undefined) return known;
  keys.set(store, ++made);
  return made;
}

function Title({ store }: { store: ConversationStore }) {
  const t = useTexts();
  const { id, title, missing } = useStore(store.store);
  const listed = useList().conversations.find((each) => each.id === id);
  const [renaming, setRenaming] = useState(false);
  const heading = useFocusBack<HTMLHeadingElement>(renaming);
  const shown = listed?.title || title;
  useEffect(() => {
    document.title = shown ? `${shown} · Millet` : "Millet";
  }, [shown]);
  if (renaming && id !== null) {
    const finish = (text: string | null) => {
      setRenaming(false);
      if (text?.trim() && text !== shown) void rename(id, text).catch((error) => store.fail(error));
    };
    return (
      <input
        className="title"
        aria-label={t.renameTitle}
        defaultValue={shown}
        maxLength={200}
        // biome-ignore lint/a11y/noAutofocus: the person has just asked to write here
        autoFocus
        onFocus={(event) => event.target.select()}
        onBlur={(event) => finish(event.target.value)}
        onKeyDown={(event) => {
          if (event.key === "Enter" && !event.nativeEvent.isComposing) event.currentTarget.blur();
          if (event.key === "Escape") finish(null);
        }}
      />
    );
  }
  const conversation = id === null || missing ? null : (listed ?? { id, title, created: 0, updated: 0 });
  return (
    <>
      <h1 ref={heading} tabIndex={-1} dir="auto">
        {shown || "Millet"}
      </h1>
      {conversation !== null && (
        <Menu name={t.options}>
          <ConversationActions conversation={conversation} current onRename={() => setRenaming(true)} />
        </Menu>
      )}
    </>
  );
}

/** The list over the conversation, on narrow screens. */
function Drawer({ onClose, children }: { onClose: () => void; children: React.ReactNode }) {
  const t = useTexts();
  const ref = useRef<HTMLDialogElement>(null);
  useEffect(() => {
    const before = document.activeElement;
    ref.current?.showModal();
    return () => {
      if (before instanceof HTMLElement) before.focus(); // until a conversation's box takes it
    };
  }, []);
  return (
    // biome-ignore lint/a11y/useKeyWithClickEvents: the backdrop is for pointers; keys have Escape
    <dialog
      ref={ref}
      className="drawer"
      aria-label={t.conversations}
      onClose={onClose}
      onClick={(event) => {
        if (event.target === ref.current) onClose();
      }}
    >
      <button type="button" className="quiet icon close" aria-label={t.closeSidebar} onClick={onClose}>
        {icons.close}
      </button>
      {children}
    </dialog>
  );
}

interface Actions {
  newChat: () => void;
  search: () => void;
  sidebar: () => void;
  help: () => void;
}

function useShortcuts(actions: Actions): void {
  const current = useRef(actions);
  current.current = actions;
  useEffect(() => {
    const onKey = (event: KeyboardEvent) => {
      if (!(event.ctrlKey || event.metaKey) || event.altKey) return;
      const key = event.key.toLowerCase();
      let action: (() => void) | null = null;
      if (event.shiftKey && key === "o") action = current.current.newChat;
      else if (event.shiftKey && key === "s") action = current.current.sidebar;
      else if (!event.shiftKey && key === "k") action = current.current.search;
      else if (!event.shiftKey && key === "/") action = current.current.help;
      if (action === null) return;
      event.preventDefault();
      action();
    };
    window.addEventListener("keydown", onKey);
    return () => window.removeEventListener("keydown", onKey);
  }, []);
}
