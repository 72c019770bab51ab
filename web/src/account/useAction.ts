/** Something that a button does: once at a time, and its failure is kept to be shown beside it. */

import { useRef, useState } from "react";

export interface Action {
  busy: boolean;
  failure: unknown;
  /** Whether it succeeded; false also where it is under way already. */
  run: (what: () => Promise<void>) => Promise<boolean>;
}

export function useAction(): Action {
  const [busy, setBusy] = useState(false);
  const [failure, setFailure] = useState<unknown>(null);
  const running = useRef(false); // two clicks may come before React has drawn the first
  const run = async (what: () => Promise<void>) => {
    if (running.current) return false;
    running.current = true;
    setBusy(true);
    setFailure(null);
    try {
      await what();
      return true;
    } catch (error) {
      setFailure(error);
      return false;
    } finally {
      running.current = false;
      setBusy(false);
    }
  };
  return { busy, failure, run };
}
