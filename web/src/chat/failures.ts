/** Why something did not work: in the reader's language where the server has a code for it, else as the server says. */

import { ApiError, Unreachable } from "../api/client";
import { texts } from "../i18n";

export function reason(error: unknown): string {
  if (error instanceof Unreachable) return texts().admin.failures.unreachable;
  if (error instanceof ApiError) return refusal(error.code, error.message);
  return error instanceof Error ? error.message : String(error);
}

/** code, message: of an answer that is none, or of a reply that failed on its way. */
export function refusal(code: string | null, message: string): string {
  const known: Record<string, string> = texts().failures;
  return code !== null && Object.hasOwn(known, code) ? (known[code] as string) : message;
}
