/** What went wrong, in the reader's language where the server has a code for it, else as the server says it. */

import { ApiError, Unreachable } from "../api/client";
import { duration } from "../format";
import type { Texts } from "../i18n";

export function describe(error: unknown, t: Texts): string {
  const texts = t.admin.failures;
  if (error instanceof Unreachable) return texts.unreachable;
  if (!(error instanceof ApiError)) return error instanceof Error ? error.message : String(error);
  const known =
    error.code !== null && Object.hasOwn(texts, error.code) ? texts[error.code as keyof typeof texts] : null;
  if (typeof known === "string") return known;
  const wait = error.retryAfter === null ? null : duration(error.retryAfter);
  if (known !== null) return known(wait);
  if (error.status === 503 || error.status === 429) return texts.busy(wait);
  return sentence(error.message);
}

function sentence(text: string): string {
  return text.charAt(0).toUpperCase() + text.slice(1) + (/[.!?。]$/.test(text) ? "" : ".");
}
