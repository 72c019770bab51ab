/** What the pages beside the chat have in common: the way home, the way to each other, and a line that tells results. */

import { createContext, type ReactNode, use, useCallback, useEffect, useRef, useState } from "react";
import { Link, useLocation } from "wouter";
import { LANGUAGES, type Language, setLanguage, useLanguage, useTexts } from "../i18n";
import { useSession } from "../session";
import "../styles/account.css";
import "../styles/figures.css";

const Announce = createContext<(text: string) => void>(() => {});

/** Tell a result, to eyes and to screen readers alike. Not from behind an open dialog, where neither would notice. */
export function useAnnounce(): (text: string) => void {
  return use(Announce);
}

const SHOWN = 8000; // milliseconds

export function Frame({ title, narrow = false, children }: { title: string; narrow?: boolean; children: ReactNode }) {
  const heading = useRef<HTMLHeadingElement>(null);
  const [result, setResult] = useState({ text: "", count: 0 });
  const announce = useCallback((text: string) => setResult((old) => ({ text, count: old.count + 1 })), []);

  useEffect(() => {
    document.title = `${title} – Millet`;
    return () => {
      document.title = "Millet";
    };
  }, [title]);

  // The link that led here is gone, and the focus with it; a page that puts it elsewhere has done so by now.
  useEffect(() => {
    if (document.activeElement === document.body) heading.current?.focus();
  }, []);

  useEffect(() => {
    if (result.text === "") return;
    const timer = setTimeout(() => setResult((old) => ({ ...old, text: "" })), SHOWN);
    return () => clearTimeout(timer);
  }, [result]);

  return (
    <div className={`frame ${narrow ? "narrow" : ""}`}>
      <Header />
      <main>
        <h1 tabIndex={-1} ref={heading}>
          {title}
        </h1>
        <Announce value={announce}>{children}</Announce>
      </main>
      <div role="status" className="result">
        {result.text !== "" && <p key={result.count}>{result.text}</p>}
      </div>
    </div>
  );
}

function Header() {
  const t = useTexts();
  const { me } = useSession();
  const [path] = useLocation();
  const inside = me.one_person || me.account !== null;
  const links = [
    ["/account", t.admin.myAccount],
    ...(me.role === "admin" ? [["/admin", t.admin.administration]] : []),
    ["/api", t.admin.programs],
  ] as [string, string][];
  return (
    <header>
      <Link href="/" className="home" aria-label={`Millet: ${t.home}`}>
        Millet
      </Link>
      {inside && (
        <nav aria-label={t.admin.pages}>
          {links.map(([href, text]) => (
            <Link key={href} href={href} aria-current={path === href ? "page" : undefined}>
              {text}
            </Link>
          ))}
        </nav>
      )}
      <LanguageSelect />
    </header>
  );
}

function LanguageSelect() {
  const t = useTexts();
  return (
    <select
      className="language"
      aria-label={t.language}
      value={useLanguage()}
      onChange={(event) => setLanguage(event.target.value as Language)}
    >
      {Object.entries(LANGUAGES).map(([language, { name, tag }]) => (
        <option key={language} value={language} lang={tag}>
          {name}
        </option>
      ))}
    </select>
  );
}
