/** A password's field: it can be shown, since what is mistyped in the dark cannot be corrected. */

import { useId, useState } from "react";
import { useTexts } from "../i18n";
import { Field } from "./parts";

const LEAST = 8;
const MOST = 1024;

/** The server counts characters, not UTF-16 units. */
export function isPasswordLong(text: string): boolean {
  const length = [...text].length;
  return length >= LEAST && length <= MOST;
}

export function PasswordField({
  label,
  kind,
  value,
  error,
  onChange,
}: {
  label: string;
  kind: "current" | "new";
  value: string;
  error?: string | undefined;
  onChange: (text: string) => void;
}) {
  const t = useTexts().admin;
  const [shown, setShown] = useState(false);
  const id = useId();
  return (
    <div className="password">
      <Field
        label={label}
        type={shown ? "text" : "password"}
        name={kind === "current" ? "password" : "new-password"}
        autoComplete={`${kind}-password`}
        autoCapitalize="none"
        spellCheck={false}
        hint={kind === "new" ? t.passwordHint : undefined}
        value={value}
        error={error}
        onChange={(event) => onChange(event.target.value)}
      />
      <div className="check">
        <input id={id} type="checkbox" checked={shown} onChange={(event) => setShown(event.target.checked)} />
        <label htmlFor={id}>{t.passwordShow}</label>
      </div>
    </div>
  );
}
