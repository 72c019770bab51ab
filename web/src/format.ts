/** Numbers, money, times and sizes as the language in use writes them. */

import { languageTag } from "./i18n";

export function number(n: number, digits = 0): string {
  return n.toLocaleString(languageTag(), { maximumFractionDigits: digits });
}

/** A figure that has to be short, such as 1.2M. */
export function compact(n: number): string {
  return n.toLocaleString(languageTag(), { notation: "compact", maximumFractionDigits: 1 });
}

/** Replies cost fractions of a cent, so that two digits would show most of them as nothing. */
export function money(amount: number, currency: string | null): string {
  const size = Math.abs(amount);
  const digits = { minimumFractionDigits: 2, maximumFractionDigits: size >= 1 ? 2 : size >= 0.01 ? 4 : 6 };
  return amount.toLocaleString(
    languageTag(),
    currency === null ? digits : { ...digits, style: "currency", currency, currencyDisplay: "narrowSymbol" },
  );
}

/** seconds: since 1970. */
export function dateTime(seconds: number): string {
  return new Intl.DateTimeFormat(languageTag(), { dateStyle: "medium", timeStyle: "short" }).format(seconds * 1000);
}

export function date(seconds: number): string {
  return new Intl.DateTimeFormat(languageTag(), { dateStyle: "medium" }).format(seconds * 1000);
}

export function clock(milliseconds: number): string {
  return new Intl.DateTimeFormat(languageTag(), { timeStyle: "medium" }).format(milliseconds);
}

/** iso: a day of usage, such as 2026-11-25. The server counts in UTC days, so the reader's zone must not move them. */
export function utcDay(iso: string): string {
  return new Intl.DateTimeFormat(languageTag(), { dateStyle: "medium", timeZone: "UTC" }).format(new Date(iso));
}

const SIZES = ["byte", "kilobyte", "megabyte", "gigabyte", "terabyte"] as const;

/** Such as "103 MB". */
export function bytes(n: number): string {
  const step = n < 1 ? 0 : Math.min(SIZES.length - 1, Math.floor(Math.log10(n) / 3));
  const display = step === 0 ? "long" : "short"; // the short "byte" has no plural
  return inUnit(n / 1000 ** step, SIZES[step] ?? "byte", step < 2 ? 0 : 1, display);
}

const SPANS = [
  ["day", 86400],
  ["hour", 3600],
  ["minute", 60],
  ["second", 1],
] as const;

/** The two largest units: "3 days 4 hr". */
export function duration(seconds: number): string {
  const first = Math.max(
    0,
    SPANS.findIndex(([, length]) => seconds >= length),
  );
  const begin = seconds < 1 ? SPANS.length - 1 : first;
  let rest = Math.floor(seconds);
  const parts = SPANS.slice(begin, begin + 2).map(([unit, length]) => {
    const whole = Math.floor(rest / length);
    rest -= whole * length;
    return { unit, whole };
  });
  const shown = parts.filter(({ whole }, index) => index === 0 || whole > 0);
  return shown.map(({ unit, whole }) => inUnit(whole, unit, 0)).join(" ");
}

/** How long something took: "2.5 sec", "12 sec", "2 min 5 sec". */
export function elapsed(seconds: number): string {
  const whole = seconds < 10 ? Math.round(seconds * 10) / 10 : Math.round(seconds);
  if (whole < 60) return inUnit(whole, "second", 1);
  if (whole < 3600) return `${inUnit(Math.floor(whole / 60), "minute", 0)} ${inUnit(whole % 60, "second", 0)}`;
  return `${inUnit(Math.floor(whole / 3600), "hour", 0)} ${inUnit(Math.floor((whole % 3600) / 60), "minute", 0)}`;
}

function inUnit(n: number, unit: string, digits: number, unitDisplay: "short" | "long" = "short"): string {
  return n.toLocaleString(languageTag(), {
    style: "unit",
    unit,
    unitDisplay,
    maximumFractionDigits: digits,
  });
}

/** A language's tag as its name in the language in use. */
export function languageName(tag: string): string {
  try {
    return new Intl.DisplayNames(languageTag(), { type: "language" }).of(tag) ?? tag;
  } catch {
    return tag;
  }
}
