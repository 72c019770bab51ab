/** Copying to the clipboard: a button, a field with a secret or an address, a block of code. */

import { useRef, useState } from "react";
import { useTexts } from "../i18n";
import { Field } from "./parts";

/** what: the name of what is copied, for those who do not see where the button stands. from: the element to select where
 * a page may not copy, as over plain HTTP on a network. */
export function CopyButton({ what, text, from }: { what: string; text: string; from: () => Element | null }) {
  const t = useTexts();
  const [said, setSaid] = useState("");
  const count = useRef(0);
  const copy = async () => {
    count.current += 1;
    const mine = count.current;
    try {
      await navigator.clipboard.writeText(text);
      setSaid(t.copied);
    } catch {
      select(from());
      setSaid(t.admin.copyFailed);
    }
    setTimeout(() => mine === count.current && setSaid(""), 4000);
  };
  return (
    <span className="copy">
      <button type="button" onClick={copy} aria-label={t.admin.copyOf(what)}>
        {t.copy}
      </button>
      <span role="status" className="soft">
        {said}
      </span>
    </span>
  );
}

function select(element: Element | null): void {
  if (element instanceof HTMLInputElement) {
    element.focus();
    element.select();
  } else if (element !== null) window.getSelection()?.selectAllChildren(element);
}

/** Something secret that is shown this once, or an address. */
export function CopyField({ label, hint, value }: { label: string; hint?: string; value: string }) {
  const input = useRef<HTMLInputElement>(null);
  return (
    <div className="copy-field">
      <Field label={label} hint={hint} value={value} readOnly ref={input} onFocus={(event) => event.target.select()} />
      <CopyButton what={label} text={value} from={() => input.current} />
    </div>
  );
}

export function CodeBlock({ title, code }: { title: string; code: string }) {
  const pre = useRef<HTMLPreElement>(null);
  return (
    <figure className="code">
      <figcaption>
        <h3>{title}</h3>
        <CopyButton what={title} text={code} from={() => pre.current} />
      </figcaption>
      {/* biome-ignore lint/a11y/noNoninteractiveTabindex: what scrolls has to be reached by the keyboard. */}
      <section className="scroll" aria-label={title} tabIndex={0}>
        <pre ref={pre}>
          <code>{code}</code>
        </pre>
      </section>
    </figure>
  );
}
