/** A native modal dialog: focus stays in it, Escape and a press beside it close it, and focus goes back where it was. */

import { type ReactNode, useEffect, useId, useRef } from "react";
import { useTexts } from "./i18n";
import { icons } from "./icons";

export function Modal({ title, onClose, children }: { title: string; onClose: () => void; children: ReactNode }) {
  const t = useTexts();
  const ref = useRef<HTMLDialogElement>(null);
  const id = useId();
  useEffect(() => {
    const before = document.activeElement;
    ref.current?.showModal();
    return () => {
      if (before instanceof HTMLElement) before.focus();
    };
  }, []);
  return (
    // biome-ignore lint/a11y/useKeyWithClickEvents: the backdrop is for pointers; keys have Escape
    <dialog
      ref={ref}
      aria-labelledby={id}
      onClose={onClose}
      onClick={(event) => {
        if (event.target === ref.current) ref.current?.close();
      }}
    >
      <div className="modal">
        <header>
          <h2 id={id}>{title}</h2>
          <button type="button" className="quiet icon" aria-label={t.close} onClick={() => ref.current?.close()}>
            {icons.close}
          </button>
        </header>
        {children}
      </div>
    </dialog>
  );
}
