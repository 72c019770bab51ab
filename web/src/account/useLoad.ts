/** What a route answers: loaded when it is first shown, again on demand, or every so often while the page is seen. */

import { useCallback, useEffect, useRef, useState } from "react";
import { request } from "../api/client";

export interface Loaded<T> {
  /** The last answer; a failure does not take it away. */
  data: T | null;
  /** Milliseconds since 1970 of that answer. */
  at: number;
  failure: unknown;
  reload: () => Promise<void>;
}

/** every: milliseconds between one answer and the next request; 0 asks once. */
export function useLoad<T>(path: string, every = 0): Loaded<T> {
  const [state, setState] = useState<Omit<Loaded<T>, "reload">>({ data: null, at: 0, failure: null });
  const newest = useRef(0);

  const load = useCallback(
    async (signal?: AbortSignal) => {
      newest.current += 1;
      const mine = newest.current;
      try {
        const data = await request<T>(path, signal ? { signal } : {});
        if (mine === newest.current) setState({ data, at: Date.now(), failure: null });
      } catch (failure) {
        if (!signal?.aborted && mine === newest.current) setState((old) => ({ ...old, failure }));
      }
    },
    [path],
  );

  useEffect(() => {
    const abort = new AbortController();
    let timer: ReturnType<typeof setTimeout> | undefined;
    let loading = false;
    const round = async () => {
      clearTimeout(timer);
      if (loading || document.hidden) return; // shown again, the page asks at once
      loading = true;
      await load(abort.signal);
      loading = false;
      if (every > 0 && !abort.signal.aborted) timer = setTimeout(round, every);
    };
    if (every === 0) void load(abort.signal);
    else {
      void round();
      document.addEventListener("visibilitychange", round);
    }
    return () => {
      abort.abort();
      clearTimeout(timer);
      document.removeEventListener("visibilitychange", round);
    };
  }, [load, every]);

  return { ...state, reload: load };
}
