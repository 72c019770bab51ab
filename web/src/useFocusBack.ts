/** Where the focus goes when the box that had it is gone, as when something was renamed. */

import { type RefObject, useEffect, useRef } from "react";

export function useFocusBack<T extends HTMLElement>(boxOpen: boolean): RefObject<T | null> {
  const ref = useRef<T>(null);
  const before = useRef(boxOpen);
  useEffect(() => {
    // Who left the box by a press elsewhere is there already.
    if (before.current && !boxOpen && document.activeElement === document.body) ref.current?.focus();
    before.current = boxOpen;
  }, [boxOpen]);
  return ref;
}
