/** A short message at the foot of the page that goes by itself, perhaps with something to press. */

import { useEffect } from "react";
import { useStore } from "zustand";
import { createStore } from "zustand/vanilla";
import { useTexts } from "./i18n";
import { icons } from "./icons";

interface Toast {
  text: string;
  action?: { name: string; run: () => void };
}

const toasts = createStore<{ toast: Toast | null }>(() => ({ toast: null }));

export function showToast(text: string, action?: Toast["action"]): void {
  toasts.setState({ toast: action ? { text, action } : { text } });
}

const STAYS = 8000; // milliseconds

export function Toasts() {
  const toast = useStore(toasts, (state) => state.toast);
  const t = useTexts();
  useEffect(() => {
    if (toast === null) return;
    const timer = setTimeout(() => toasts.setState({ toast: null }), STAYS);
    return () => clearTimeout(timer);
  }, [toast]);
  return (
    <div className="toasts" role="status">
      {toast && (
        <div className="toast">
          <span>{toast.text}</span>
          {toast.action && (
            <button
              type="button"
              onClick={() => {
                toast.action?.run();
                toasts.setState({ toast: null });
              }}
            >
              {toast.action.name}
            </button>
          )}
          <button
            type="button"
            className="quiet icon"
            aria-label={t.close}
            onClick={() => toasts.setState({ toast: null })}
          >
            {icons.close}
          </button>
        </div>
      )}
    </div>
  );
}
