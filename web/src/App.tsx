/** The page's frame: language, session, and which part is at which address. */

import { lazy, Suspense, useEffect } from "react";
import { Link, Route, Switch } from "wouter";
import { ChatPage } from "./chat/ChatPage";
import { LANGUAGES, TextsContext, useLanguage, useTexts } from "./i18n";
import { Mended } from "./Mended";
import { SessionProvider } from "./session";

const AccountPage = lazy(() => import("./account/AccountPage"));
const AdminPage = lazy(() => import("./account/AdminPage"));
const LoginPage = lazy(() => import("./account/LoginPage"));
const InvitePage = lazy(() => import("./account/InvitePage"));
const ProgramsPage = lazy(() => import("./account/ProgramsPage"));

export function App() {
  const language = LANGUAGES[useLanguage()];
  useEffect(() => {
    document.documentElement.lang = language.tag;
  }, [language]);
  return (
    <TextsContext value={language.texts}>
      <SessionProvider fallback={() => <Notice text={language.texts.serverGone} />}>
        <Mended>
          <Suspense>
            <Switch>
              <Route path="/" component={ChatPage} />
              <Route path="/c/:id" component={ChatPage} />
              <Route path="/account" component={AccountPage} />
              <Route path="/admin" component={AdminPage} />
              <Route path="/login" component={LoginPage} />
              <Route path="/invite" component={InvitePage} />
              <Route path="/api" component={ProgramsPage} />
              <Route>
                <Lost />
              </Route>
            </Switch>
          </Suspense>
        </Mended>
      </SessionProvider>
    </TextsContext>
  );
}

function Notice({ text }: { text: string }) {
  return (
    <main className="notice" role="status">
      {text}
    </main>
  );
}

function Lost() {
  const t = useTexts();
  return (
    <main className="notice">
      <p>{t.pageNotFound}</p>
      <p>
        <Link href="/">{t.home}</Link>
      </p>
    </main>
  );
}
