/** The list of conversations: by day, searched, and what can be done with each. */

import { type ReactNode, useEffect, useId, useRef, useState } from "react";
import { Link, useLocation } from "wouter";
import type { Conversation, Hit } from "../api/types";
import { languageTag, useTexts } from "../i18n";
import { icons } from "../icons";
import { useSession } from "../session";
import { showToast } from "../toast";
import { useFocusBack } from "../useFocusBack";
import { exportJson, exportMarkdown, shareAsPage } from "./export";
import { reason } from "./failures";
import { loadMore, remove, rename, restore, search, useList } from "./list";

interface Props {
  current: string | null;
  onChoose: () => void;
  onSettings: () => void;
}

export function Sidebar({ current, onChoose, onSettings }: Props) {
  const t = useTexts();
  const { me, signOut } = useSession();
  return (
    <div className="sidebar">
      <Link href="/" className="button new" onClick={onChoose}>
        {icons.plus}
        {t.newChat}
      </Link>
      <SearchBox />
      <nav aria-label={t.conversations}>
        <Conversations current={current} onChoose={onChoose} />
      </nav>
      <footer>
        <button type="button" className="quiet" onClick={onSettings}>
          {icons.settings}
          {t.settings}
        </button>
        {!me.one_person && (
          <Link href="/account" className="button quiet">
            {icons.person}
            <span className="name">{me.account?.name ?? t.account}</span>
          </Link>
        )}
        {me.role === "admin" && <Link href="/admin">{t.administration}</Link>}
        <Link href="/api">{t.programs}</Link>
        {!me.one_person && (
          <button type="button" className="quiet" onClick={() => void told(signOut(), t)}>
            {t.signOut}
          </button>
        )}
      </footer>
    </div>
  );
}

/** Says so where it does not work. */
async function told(work: Promise<unknown>, t: ReturnType<typeof useTexts>): Promise<void> {
  try {
    await work;
  } catch (error) {
    showToast(t.failed(reason(error)));
  }
}

const PAUSE = 200; // milliseconds of no typing until it is searched

function SearchBox() {
  const t = useTexts();
  const [text, setText] = useState(useList().query ?? "");
  useEffect(() => {
    const timer = setTimeout(() => void told(search(text), t), PAUSE);
    return () => clearTimeout(timer);
  }, [text, t]);
  return (
    <search>
      {icons.search}
      <input
        type="search"
        id="search"
        aria-label={t.search}
        placeholder={t.search}
        value={text}
        onChange={(event) => setText(event.target.value)}
        onKeyDown={(event) => {
          if (event.key === "Escape") setText("");
        }}
      />
    </search>
  );
}

function Conversations({ current, onChoose }: { current: string | null; onChoose: () => void }) {
  const t = useTexts();
  const { conversations, next, loaded, query, hits, searching } = useList();
  if (query !== null) {
    return (
      <>
        <p className="hidden" role="status">
          {searching ? "" : hits.length === 0 ? t.searchNothing : `${hits.length}`}
        </p>
        {hits.length === 0 && !searching && <p className="none">{t.searchNothing}</p>}
        <ul>
          {hits.map((hit) => (
            <Found key={`${hit.conversation} ${hit.message}`} hit={hit} onChoose={onChoose} />
          ))}
        </ul>
      </>
    );
  }
  if (loaded && conversations.length === 0) return <p className="none">{t.noConversations}</p>;
  return (
    <>
      {byDay(conversations, t).map(({ name, items }) => (
        <section key={name}>
          <h3>{name}</h3>
          <ul>
            {items.map((each) => (
              <Item key={each.id} conversation={each} current={each.id === current} onChoose={onChoose} />
            ))}
          </ul>
        </section>
      ))}
      {next !== null && (
        <button type="button" className="quiet" onClick={() => void told(loadMore(), t)}>
          {t.more}
        </button>
      )}
    </>
  );
}

function Found({ hit, onChoose }: { hit: Hit; onChoose: () => void }) {
  const t = useTexts();
  return (
    <li>
      <Link href={`/c/${hit.conversation}`} className="item found" onClick={onChoose}>
        <span className="title" dir="auto">
          {hit.title || t.untitled}
        </span>
        {hit.message !== null && (
          <span className="snippet" dir="auto">
            {hit.snippet}
          </span>
        )}
      </Link>
    </li>
  );
}

function byDay(conversations: readonly Conversation[], t: ReturnType<typeof useTexts>) {
  const midnight = new Date().setHours(0, 0, 0, 0) / 1000;
  const day = 86400;
  const groups = [
    { name: t.today, from: midnight },
    { name: t.yesterday, from: midnight - day },
    { name: t.lastWeek, from: midnight - 7 * day },
    { name: t.earlier, from: Number.NEGATIVE_INFINITY },
  ].map((group) => ({ ...group, items: [] as Conversation[] }));
  for (const each of conversations) groups.find((group) => each.updated >= group.from)?.items.push(each);
  return groups.filter((group) => group.items.length > 0);
}

function Item({
  conversation,
  current,
  onChoose,
}: {
  conversation: Conversation;
  current: boolean;
  onChoose: () => void;
}) {
  const t = useTexts();
  const [renaming, setRenaming] = useState(false);
  const link = useFocusBack<HTMLAnchorElement>(renaming);
  const title = conversation.title || t.untitled;
  if (renaming) {
    return (
      <li>
        <Rename conversation={conversation} onDone={() => setRenaming(false)} />
      </li>
    );
  }
  return (
    <li className="entry">
      <Link
        ref={link}
        href={`/c/${conversation.id}`}
        className="item"
        aria-current={current ? "page" : undefined}
        onClick={onChoose}
        title={new Date(conversation.updated * 1000).toLocaleString(languageTag())}
      >
        <span className="title" dir="auto">
          {title}
        </span>
      </Link>
      <Menu name={`${t.options}: ${title}`}>
        <ConversationActions conversation={conversation} current={current} onRename={() => setRenaming(true)} />
      </Menu>
    </li>
  );
}

function Rename({ conversation, onDone }: { conversation: Conversation; onDone: () => void }) {
  const t = useTexts();
  const done = useRef(false);
  const finish = (title: string | null) => {
    if (done.current) return; // the box that goes loses the focus, too
    done.current = true;
    onDone();
    if (title === null || title.trim() === "" || title === conversation.title) return;
    void told(rename(conversation.id, title), t);
  };
  return (
    <input
      className="rename"
      aria-label={t.renameTitle}
      defaultValue={conversation.title}
      maxLength={200}
      // biome-ignore lint/a11y/noAutofocus: the person has just asked to write here
      autoFocus
      onFocus={(event) => event.target.select()}
      onBlur={(event) => finish(event.target.value)}
      onKeyDown={(event) => {
        if (event.key === "Enter" && !event.nativeEvent.isComposing) finish(event.currentTarget.value);
        if (event.key === "Escape") finish(null);
      }}
    />
  );
}

export function ConversationActions({
  conversation,
  current,
  onRename,
}: {
  conversation: Conversation;
  current: boolean;
  onRename: () => void;
}) {
  const t = useTexts();
  const [, navigate] = useLocation();
  const discard = async () => {
    await remove(conversation.id);
    if (current) navigate("/");
    showToast(t.deleted(conversation.title || t.untitled), {
      name: t.undo,
      run: () =>
        void told(
          restore(conversation.id).then(() => current && navigate(`/c/${conversation.id}`)),
          t,
        ),
    });
  };
  return (
    <>
      <button type="button" role="menuitem" onClick={onRename}>
        {t.rename}
      </button>
      <button type="button" role="menuitem" onClick={() => void told(exportMarkdown(conversation.id), t)}>
        {t.exportMarkdown}
      </button>
      <button type="button" role="menuitem" onClick={() => void told(exportJson(conversation.id), t)}>
        {t.exportJson}
      </button>
      <button type="button" role="menuitem" onClick={() => void told(shareAsPage(conversation.id), t)}>
        {t.share}
      </button>
      <button type="button" role="menuitem" className="danger" onClick={() => void told(discard(), t)}>
        {t.delete}
      </button>
    </>
  );
}

/** A button that opens a menu: arrows move in it, Escape closes it. */
export function Menu({ name, children }: { name: string; children: ReactNode }) {
  const id = useId();
  const button = useRef<HTMLButtonElement>(null);
  const menu = useRef<HTMLDivElement>(null);
  const [open, setOpen] = useState(false);

  const move = (step: number) => {
    const items = [...(menu.current?.querySelectorAll<HTMLElement>("[role=menuitem]") ?? [])];
    const at = items.indexOf(document.activeElement as HTMLElement);
    items[(at + step + items.length) % items.length]?.focus();
  };
  const close = () => menu.current?.hidePopover();

  return (
    <>
      <button
        ref={button}
        type="button"
        className="quiet icon options"
        aria-label={name}
        aria-haspopup="menu"
        aria-expanded={open}
        popoverTarget={id}
      >
        {icons.more}
      </button>
      <div
        ref={menu}
        id={id}
        popover="auto"
        role="menu"
        aria-label={name}
        tabIndex={-1}
        className="menu"
        onClick={close}
        onToggle={(event) => {
          const opened = event.newState === "open";
          setOpen(opened);
          if (!opened) return;
          place(menu.current, button.current);
          menu.current?.querySelector<HTMLElement>("[role=menuitem]")?.focus();
        }}
        onKeyDown={(event) => {
          if (event.key === "ArrowDown") move(1);
          else if (event.key === "ArrowUp") move(-1);
          else if (event.key === "Tab") close();
          else return;
          if (event.key !== "Tab") event.preventDefault();
        }}
      >
        {open && children}
      </div>
    </>
  );
}

/** Below the button, or above it where there is no room. */
function place(menu: HTMLElement | null, button: HTMLElement | null): void {
  if (!menu || !button) return;
  const at = button.getBoundingClientRect();
  const { offsetWidth: width, offsetHeight: height } = menu;
  const below = at.bottom + height + 8 < window.innerHeight;
  menu.style.left = `${Math.max(8, Math.min(at.right - width, window.innerWidth - width - 8))}px`;
  menu.style.top = `${Math.max(8, below ? at.bottom + 4 : at.top - height - 4)}px`;
}
