import { vi } from "vitest";

/** Waits until the assertion holds, as late as a busy machine makes it; `vi.waitFor` alone gives up after a second. */
export const until = (assertion: () => void): Promise<void> => vi.waitFor(assertion, 30_000);
