/** Times and sizes as people read them. */

import { languageTag } from "../i18n";

/** seconds: such as "8 s" or "2 min 5 s", in the language in use. */
export function duration(seconds: number): string {
  const whole = seconds < 10 ? Math.round(seconds * 10) / 10 : Math.round(seconds);
  const unit = (value: number, name: "second" | "minute" | "hour") =>
    value.toLocaleString(languageTag(), { style: "unit", unit: name, unitDisplay: "short", maximumFractionDigits: 1 });
  if (whole < 60) return unit(whole, "second");
  if (whole < 3600) return `${unit(Math.floor(whole / 60), "minute")} ${unit(whole % 60, "second")}`;
  return `${unit(Math.floor(whole / 3600), "hour")} ${unit(Math.floor((whole % 3600) / 60), "minute")}`;
}

/** Such as "103 MB". */
export function bytes(size: number): string {
  const units = ["byte", "kilobyte", "megabyte", "gigabyte"] as const;
  const power = size > 0 ? Math.min(units.length - 1, Math.floor(Math.log10(size) / 3)) : 0;
  return (size / 1000 ** power).toLocaleString(languageTag(), {
    style: "unit",
    unit: units[power] as string,
    unitDisplay: power === 0 ? "long" : "short", // the short "byte" has no plural
    maximumFractionDigits: power > 1 ? 1 : 0,
  });
}
