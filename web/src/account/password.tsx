/** Passwords in forms. They can be shown, since what is mistyped in the dark cannot be corrected. */

import { useTexts } from "../i18n";
import { Check, Field } from "./parts";

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
  shown,
  value,
  error,
  onChange,
}: {
  label: string;
  kind: "current" | "new";
  shown: boolean;
  value: string;
  error?: string | undefined;
  onChange: (text: string) => void;
}) {
  const t = useTexts().admin;
  return (
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
  );
}

export function ShowPassword({ shown, onChange }: { shown: boolean; onChange: (shown: boolean) => void }) {
  return <Check quiet label={useTexts().admin.passwordShow} checked={shown} onChange={onChange} />;
}
