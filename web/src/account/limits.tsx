/** Limits of an account or a key: shown in a line, and as fields of a form. */

import type { Limits } from "../api/types";
import { money, number } from "../format";
import { useTexts } from "../i18n";
import { Field } from "./parts";

export const LIMITS = ["concurrency", "requests_per_minute", "tokens_per_minute", "spend_per_day"] as const;
export type LimitTexts = Record<keyof Limits, string>;

const MOST = { concurrency: 1e9, requests_per_minute: 1e9, tokens_per_minute: 1e9, spend_per_day: 1e12 };

export function limitTexts(limits?: Limits): LimitTexts {
  const texts = LIMITS.map((name) => [name, limits?.[name]?.toString() ?? ""]);
  return Object.fromEntries(texts) as LimitTexts;
}

/** Null where a text is no limit. */
export function readLimit(name: keyof Limits, text: string): { value: number | null } | null {
  const trimmed = text.trim();
  if (trimmed === "") return { value: null };
  const form = name === "spend_per_day" ? /^\d+(\.\d+)?$/ : /^\d+$/;
  const value = Number(trimmed);
  return form.test(trimmed) && value <= MOST[name] ? { value } : null;
}

/** Null where one of them is no limit. */
export function readLimits(texts: LimitTexts): Limits | null {
  const read = LIMITS.map((name) => [name, readLimit(name, texts[name])] as const);
  if (read.some(([, limit]) => limit === null)) return null;
  return Object.fromEntries(read.map(([name, limit]) => [name, limit?.value ?? null])) as unknown as Limits;
}

export function LimitsFields({
  texts,
  onChange,
  hint,
  currency,
  checked,
}: {
  texts: LimitTexts;
  onChange: (texts: LimitTexts) => void;
  hint: string;
  currency: string | null;
  /** Whether to say what is wrong; not before somebody has tried to send it. */
  checked: boolean;
}) {
  const t = useTexts().admin;
  // Where nothing costs anything, a limit of spending would only puzzle.
  const shown = LIMITS.filter((name) => name !== "spend_per_day" || currency !== null || texts[name] !== "");
  return (
    <fieldset>
      <legend>{t.limits}</legend>
      <p className="hint">{hint}</p>
      <div className="fields">
        {shown.map((name) => {
          const isMoney = name === "spend_per_day";
          const wrong = checked && readLimit(name, texts[name]) === null;
          return (
            <Field
              key={name}
              label={isMoney && currency !== null ? `${t.limitNames[name]} (${currency})` : t.limitNames[name]}
              inputMode={isMoney ? "decimal" : "numeric"}
              autoComplete="off"
              value={texts[name]}
              error={wrong ? (isMoney ? t.amount : t.wholeNumber) : undefined}
              onChange={(event) => onChange({ ...texts, [name]: event.target.value })}
            />
          );
        })}
      </div>
    </fieldset>
  );
}

export function LimitsList({ limits, currency }: { limits: Limits; currency: string | null }) {
  const t = useTexts().admin;
  const set = LIMITS.flatMap((name) => {
    const limit = limits[name];
    if (limit === null) return [];
    return [t.limitShort[name](name === "spend_per_day" ? money(limit, currency) : number(limit))];
  });
  if (set.length === 0) return <span className="soft">{t.limitNone}</span>;
  return (
    <ul className="limits">
      {set.map((text) => (
        <li key={text}>{text}</li>
      ))}
    </ul>
  );
}
