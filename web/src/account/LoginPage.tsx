/** Signing in. */

import { type FormEvent, useEffect, useRef, useState } from "react";
import { useLocation } from "wouter";
import { request } from "../api/client";
import type { Me } from "../api/types";
import { useTexts } from "../i18n";
import { useSession } from "../session";
import { Frame } from "./Frame";
import { safeNext } from "./next";
import { Failure, Field, focusFirstError } from "./parts";
import { PasswordField, ShowPassword } from "./password";
import { useAction } from "./useAction";

export default function LoginPage() {
  const t = useTexts();
  const { me, refresh } = useSession();
  const [, navigate] = useLocation();
  const [next] = useState(() => safeNext(window.location.search, window.location.origin));
  const signedIn = me.account !== null;

  // Also where another tab, or the way back, brought somebody here who is in already.
  useEffect(() => {
    if (signedIn) navigate(next, { replace: true });
  }, [signedIn, next, navigate]);

  return (
    <Frame title={t.admin.signIn} narrow>
      {me.one_person ? <p>{t.admin.onePersonSignIn}</p> : <LoginForm onDone={refresh} />}
    </Frame>
  );
}

function LoginForm({ onDone }: { onDone: (me: Me) => void }) {
  const t = useTexts().admin;
  const first = useRef<HTMLInputElement>(null);
  const [name, setName] = useState("");
  const [password, setPassword] = useState("");
  const [shown, setShown] = useState(false);
  const [checked, setChecked] = useState(false);
  const { busy, failure, run } = useAction();

  useEffect(() => first.current?.focus(), []);

  const submit = (event: FormEvent<HTMLFormElement>) => {
    event.preventDefault();
    setChecked(true);
    if (name.trim() === "" || password === "") return focusFirstError(event.currentTarget);
    void run(async () => onDone(await request<Me>("/api/login", { method: "POST", body: { name, password } })));
  };

  return (
    <form onSubmit={submit} noValidate>
      <Field
        label={t.name}
        name="username"
        autoComplete="username"
        autoCapitalize="none"
        spellCheck={false}
        ref={first}
        value={name}
        error={checked && name.trim() === "" ? t.nameMissing : undefined}
        onChange={(event) => setName(event.target.value)}
      />
      <PasswordField
        label={t.password}
        kind="current"
        shown={shown}
        value={password}
        error={checked && password === "" ? t.passwordMissing : undefined}
        onChange={setPassword}
      />
      <ShowPassword shown={shown} onChange={setShown} />
      <Failure error={failure} />
      <button type="submit" className="primary" aria-busy={busy}>
        {t.signIn}
      </button>
      <p className="hint">{t.signInHint}</p>
      <p className="hint">{t.forgot}</p>
    </form>
  );
}
