/** The browser's own modal dialog: it keeps the focus, and gives it back to what opened it. */

import { type ReactNode, useId, useLayoutEffect, useRef } from "react";
import { useTexts } from "../i18n";
import { Failure } from "./parts";
import { useAction } from "./useAction";

/** It is open as long as it is drawn. onClose: it should no longer be. */
export function Dialog({ title, onClose, children }: { title: string; onClose: () => void; children: ReactNode }) {
  const id = useId();
  const dialog = useRef<HTMLDialogElement>(null);
  useLayoutEffect(() => {
    const element = dialog.current;
    element?.showModal();
    return () => element?.close(); // still in the page, so that the focus goes back
  }, []);
  return (
    <dialog
      ref={dialog}
      aria-labelledby={id}
      onClose={onClose}
      onCancel={(event) => {
        event.preventDefault();
        onClose();
      }}
    >
      <h2 id={id}>{title}</h2>
      {children}
    </dialog>
  );
}

/** action: what is confirmed; the dialog stays, with the reason, where it fails. */
export function Confirm({
  title,
  text,
  verb,
  action,
  onDone,
  onClose,
}: {
  title: string;
  text: string;
  verb: string;
  action: () => Promise<void>;
  onDone: () => void;
  onClose: () => void;
}) {
  const t = useTexts();
  const { busy, failure, run } = useAction();
  return (
    <Dialog title={title} onClose={onClose}>
      <p>{text}</p>
      <Failure error={failure} />
      <div className="buttons">
        <button type="button" onClick={onClose}>
          {t.cancel}
        </button>
        <button
          type="button"
          className="danger"
          aria-busy={busy}
          onClick={async () => {
            if (await run(action)) onDone();
          }}
        >
          {verb}
        </button>
      </div>
    </Dialog>
  );
}
