/** Coming in by a link: to a new account, or to a new password of one that is there. */

import { type FormEvent, useEffect, useLayoutEffect, useRef, useState } from "react";
import { useLocation } from "wouter";
import { request } from "../api/client";
import type { Me } from "../api/types";
import { useTexts } from "../i18n";
import { useSession } from "../session";
import { Frame } from "./Frame";
import { type Link, readLink } from "./invitation";
import { Failure, Field, focusFirstError } from "./parts";
import { isPasswordLong, PasswordField, ShowPassword } from "./password";
import { useAction } from "./useAction";

const LONGEST_NAME = 254;

export default function InvitePage() {
  const t = useTexts().admin;
  const { me, refresh } = useSession();
  const [, navigate] = useLocation();
  const link = useLink();

  const accept = async (body: { token: string; name: string | null; password: string }) => {
    await refresh(await request<Me>("/api/invitations/accept", { method: "POST", body }));
    navigate("/", { replace: true });
  };

  return (
    <Frame title={link?.reset ? t.resetTitle : t.invitation} narrow>
      {me.one_person && <p>{t.failures.no_accounts}</p>}
      {!me.one_person && link === null && <p>{t.noToken}</p>}
      {!me.one_person && link !== null && (
        <>
          {me.account !== null && <p className="note">{t.signedInAs(me.account.name)}</p>}
          <InviteForm key={link.token} link={link} accept={accept} />
        </>
      )}
    </Frame>
  );
}

/** The address bar's link, which is taken out of it before anybody looks over a shoulder or into the history. */
function useLink(): Link | null {
  const [link, setLink] = useState(() => readLink(window.location.hash));
  useLayoutEffect(() => {
    const take = () => {
      const found = readLink(window.location.hash);
      if (found === null) return;
      setLink(found);
      window.history.replaceState(window.history.state, "", window.location.pathname);
    };
    take();
    window.addEventListener("hashchange", take); // another link, pasted into this tab
    return () => window.removeEventListener("hashchange", take);
  }, []);
  return link;
}

function InviteForm({
  link,
  accept,
}: {
  link: Link;
  accept: (body: { token: string; name: string | null; password: string }) => Promise<void>;
}) {
  const t = useTexts().admin;
  const form = useRef<HTMLFormElement>(null);
  const [name, setName] = useState("");
  const [password, setPassword] = useState("");
  const [shown, setShown] = useState(false);
  const [checked, setChecked] = useState(false);
  const { busy, failure, run } = useAction();

  useEffect(() => form.current?.querySelector("input")?.focus(), []);

  const trimmed = name.trim();
  const nameError = trimmed === "" ? t.nameMissing : [...trimmed].length > LONGEST_NAME ? t.nameLong : undefined;
  const wrongName = link.reset ? undefined : nameError;
  const wrongPassword = isPasswordLong(password) ? undefined : t.passwordLength;

  const submit = (event: FormEvent<HTMLFormElement>) => {
    event.preventDefault();
    setChecked(true);
    if (wrongName !== undefined || wrongPassword !== undefined) return focusFirstError(event.currentTarget);
    void run(() => accept({ token: link.token, name: link.reset ? null : trimmed, password }));
  };

  return (
    <form onSubmit={submit} noValidate ref={form}>
      <p>{link.reset ? t.resetHint : t.invitationHint}</p>
      {!link.reset && (
        <Field
          label={t.name}
          hint={t.nameHint}
          name="username"
          autoComplete="username"
          autoCapitalize="none"
          spellCheck={false}
          value={name}
          error={checked ? wrongName : undefined}
          onChange={(event) => setName(event.target.value)}
        />
      )}
      <PasswordField
        label={link.reset ? t.newPassword : t.password}
        kind="new"
        shown={shown}
        value={password}
        error={checked ? wrongPassword : undefined}
        onChange={setPassword}
      />
      <ShowPassword shown={shown} onChange={setShown} />
      <Failure error={failure} />
      <button type="submit" className="primary" aria-busy={busy}>
        {link.reset ? t.setPassword : t.makeAccount}
      </button>
    </form>
  );
}
