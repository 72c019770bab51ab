/** A new password, in exchange for the old one. */

import { type FormEvent, useState } from "react";
import { ApiError, request } from "../api/client";
import { useTexts } from "../i18n";
import { useSession } from "../session";
import { useAnnounce } from "./Frame";
import { Failure, focusFirstError, Section } from "./parts";
import { isPasswordLong, PasswordField, ShowPassword } from "./password";
import { useAction } from "./useAction";

export function PasswordSection() {
  const t = useTexts().admin;
  const announce = useAnnounce();
  const { me } = useSession();
  const [old, setOld] = useState("");
  const [fresh, setFresh] = useState("");
  const [shown, setShown] = useState(false);
  const [checked, setChecked] = useState(false);
  const { busy, failure, run } = useAction();
  const wrong = failure instanceof ApiError && failure.code === "wrong_password";

  const submit = async (event: FormEvent<HTMLFormElement>) => {
    event.preventDefault();
    setChecked(true);
    if (old === "" || !isPasswordLong(fresh)) return focusFirstError(event.currentTarget);
    const changed = await run(() => request("/api/account/password", { method: "POST", body: { old, new: fresh } }));
    if (!changed) return;
    setOld("");
    setFresh("");
    setChecked(false);
    announce(t.passwordChanged);
  };

  return (
    <Section title={t.changePassword}>
      <form onSubmit={submit} noValidate className="short">
        {/* A password manager has to know whose password this is. */}
        <input
          type="text"
          name="username"
          autoComplete="username"
          value={me.account?.name ?? ""}
          readOnly
          hidden
          aria-label={t.name}
        />
        <PasswordField
          label={t.oldPassword}
          kind="current"
          shown={shown}
          value={old}
          error={checked && old === "" ? t.passwordMissing : undefined}
          onChange={setOld}
        />
        <PasswordField
          label={t.newPassword}
          kind="new"
          shown={shown}
          value={fresh}
          error={checked && !isPasswordLong(fresh) ? t.passwordLength : undefined}
          onChange={setFresh}
        />
        <ShowPassword shown={shown} onChange={setShown} />
        <Failure error={failure} text={wrong ? t.wrongOld : undefined} />
        <button type="submit" aria-busy={busy}>
          {t.changePassword}
        </button>
      </form>
    </Section>
  );
}
