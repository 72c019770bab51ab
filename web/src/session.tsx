/** Who uses the page, as the server tells it. */

import { createContext, type ReactNode, use, useCallback, useEffect, useMemo, useState } from "react";
import { useLocation } from "wouter";
import { ApiError, request, setCsrf, whenSignedOut } from "./api/client";
import type { Me } from "./api/types";
import { forgetConversations } from "./chat/conversation";
import { forgetDrafts } from "./chat/drafts";
import { forgetList } from "./chat/list";

interface Session {
  me: Me;
  /** Take what a sign-in answered, or ask again. */
  refresh: (me?: Me) => Promise<void>;
  signOut: () => Promise<void>;
}

const SessionContext = createContext<Session | null>(null);

export function useSession(): Session {
  const session = use(SessionContext);
  if (session === null) throw new Error("useSession outside of SessionProvider");
  return session;
}

const NOBODY: Me = { account: null, role: "member", one_person: false, csrf: null, currency: null };

/** The next one to sign in may be another person. What was not sent waits for the same one, who did not sign out. */
function forget(): void {
  forgetConversations();
  forgetList();
}

/** Shows nothing until it knows; leads to the sign-in page where the server wants one. */
export function SessionProvider({
  children,
  fallback,
}: {
  children: ReactNode;
  fallback: (error: unknown) => ReactNode;
}) {
  const [me, setMe] = useState<Me | null>(null);
  const [failure, setFailure] = useState<unknown>(null);
  const [, navigate] = useLocation();

  const refresh = useCallback(async (given?: Me) => {
    try {
      const found = given ?? (await request<Me>("/api/account"));
      setCsrf(found.csrf);
      setMe(found);
      setFailure(null);
    } catch (error) {
      if (error instanceof ApiError && error.status === 401) setMe(NOBODY);
      else setFailure(error);
    }
  }, []);

  useEffect(() => {
    void refresh();
  }, [refresh]);

  // The server may be starting still.
  useEffect(() => {
    if (failure === null) return;
    const timer = setTimeout(() => void refresh(), 2000);
    return () => clearTimeout(timer);
  }, [failure, refresh]);

  useEffect(() => {
    whenSignedOut(() => {
      forget();
      setMe(NOBODY);
      if (!/^\/(login|invite)/.test(window.location.pathname)) {
        navigate(`/login?next=${encodeURIComponent(window.location.pathname + window.location.search)}`, {
          replace: true,
        });
      }
    });
  }, [navigate]);

  const signOut = useCallback(async () => {
    await request("/api/logout", { method: "POST" });
    setCsrf(null);
    forget();
    forgetDrafts();
    setMe(NOBODY);
    navigate("/login");
  }, [navigate]);

  const session = useMemo(() => (me === null ? null : { me, refresh, signOut }), [me, refresh, signOut]);
  if (session === null) return failure === null ? null : fallback(failure);
  return <SessionContext value={session}>{children}</SessionContext>;
}
