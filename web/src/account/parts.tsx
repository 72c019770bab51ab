/** Small parts of these pages: sections, failures, fields, tables that scroll by themselves. */

import { type ComponentProps, type ReactNode, type Ref, useEffect, useId, useRef } from "react";
import { useTexts } from "../i18n";
import { describe } from "./failures";
import type { Loaded } from "./useLoad";

/** heading: takes the focus where what had it is gone. */
export function Section({
  title,
  heading,
  aside,
  children,
}: {
  title: string;
  heading?: Ref<HTMLHeadingElement>;
  aside?: ReactNode;
  children: ReactNode;
}) {
  return (
    <section>
      <div className="section-head">
        <h2 tabIndex={-1} ref={heading}>
          {title}
        </h2>
        {aside}
      </div>
      {children}
    </section>
  );
}

/** error: null shows nothing. text: instead of what the error says by itself. */
export function Failure({ error, text, retry }: { error: unknown; text?: string | undefined; retry?: () => void }) {
  const t = useTexts();
  const box = useRef<HTMLDivElement>(null);
  const ofAction = error !== null && retry === undefined;
  // On a phone a form is longer than the screen, and nobody would know why its button does nothing.
  useEffect(() => {
    if (ofAction) box.current?.scrollIntoView({ block: "nearest" });
  }, [ofAction]);
  if (error === null) return null;
  return (
    <div role="alert" className="failure" ref={box}>
      <p>{text ?? describe(error, t)}</p>
      {retry && (
        <button type="button" onClick={retry}>
          {t.tryAgain}
        </button>
      )}
    </div>
  );
}

/** What was loaded, with its failure beside it, since older data is better than none. */
export function Shown<T>({ of, children }: { of: Loaded<T>; children: (data: T) => ReactNode }) {
  const t = useTexts();
  return (
    <>
      <Failure error={of.failure} retry={() => void of.reload()} />
      {of.data !== null ? children(of.data) : of.failure === null && <p className="soft">{t.admin.loading}</p>}
    </>
  );
}

interface FieldProps extends ComponentProps<"input"> {
  label: string;
  hint?: string | undefined;
  error?: string | undefined;
}

export function Field({ label, hint, error, ...input }: FieldProps) {
  const id = useId();
  const described = [hint && `${id}-hint`, error && `${id}-error`].filter(Boolean).join(" ");
  return (
    <div className="field">
      <label htmlFor={id}>{label}</label>
      <input {...input} id={id} aria-invalid={error !== undefined} aria-describedby={described || undefined} />
      {hint && (
        <p id={`${id}-hint`} className="hint">
          {hint}
        </p>
      )}
      {error && (
        <p id={`${id}-error`} className="error">
          {error}
        </p>
      )}
    </div>
  );
}

export function Check({
  label,
  quiet = false,
  checked,
  onChange,
}: {
  label: string;
  /** Beside something that matters more. */
  quiet?: boolean;
  checked: boolean;
  onChange: (checked: boolean) => void;
}) {
  const id = useId();
  return (
    <div className={quiet ? "check quiet" : "check"}>
      <input id={id} type="checkbox" checked={checked} onChange={(event) => onChange(event.target.checked)} />
      <label htmlFor={id}>{label}</label>
    </div>
  );
}

export function Select({ label, children, ...select }: ComponentProps<"select"> & { label: string }) {
  const id = useId();
  return (
    <div className="field">
      <label htmlFor={id}>{label}</label>
      <select {...select} id={id}>
        {children}
      </select>
    </div>
  );
}

/** Puts the focus on the first field that is wrong, once React has drawn what is wrong with it. */
export function focusFirstError(form: HTMLFormElement): void {
  requestAnimationFrame(() => form.querySelector<HTMLElement>('[aria-invalid="true"]')?.focus());
}

/** A table that is wider than a phone scrolls in a box of its own, which the keyboard reaches too. */
export function Table({
  label,
  figures = false,
  children,
}: {
  label: string;
  /** Its columns are numbers. */
  figures?: boolean;
  children: ReactNode;
}) {
  return (
    // biome-ignore lint/a11y/noNoninteractiveTabindex: what scrolls has to be reached by the keyboard.
    <section className="scroll" aria-label={label} tabIndex={0}>
      <table className={figures ? "figures" : undefined}>
        <caption className="hidden">{label}</caption>
        {children}
      </table>
    </section>
  );
}
