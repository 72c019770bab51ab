import type { ElementContent } from "hast";
import { memo, type ReactNode, useContext, useEffect, useMemo, useRef, useState } from "react";
import { copyText } from "../chat/copy";
import { useTexts } from "../i18n";
import { type Block, closesFence, type Fence } from "./blocks";

import { highlight, prepare } from "./highlight";
import { languageOf } from "./languages";
import { inSlices } from "./slices";
import { StillContext } from "./still";

/** The code between the fences, of the pieces of a code block. */
export function codeOf(pieces: readonly Block[]): string[] {
  return pieces.map((piece, index) => {
    if (!piece.fence) return piece.source;
    let code = piece.source;
    // A block that goes on from a list item's code begins without a fence.
    if (index === 0 && /^\s*(?:`{3}|~{3})/.test(code)) code = code.slice(code.indexOf("\n") + 1 || code.length);
    if (piece.closed) code = withoutEnd(code, piece.fence);
    return piece.fence.indent ? code.replace(new RegExp(`^[ \\t]{1,${piece.fence.indent}}`, "gm"), "") : code;
  });
}

function withoutEnd(code: string, fence: Fence): string {
  const end = code.trimEnd();
  const line = end.lastIndexOf("\n") + 1;
  return closesFence(end.slice(line), fence) ? end.slice(0, line) : code;
}

/** Deeper colours (templates in templates in templates) are left out: a browser's layout recurses. */
const DEEPEST = 24;

/** Only spans with the highlighter's own classes make it through. */
function spans(nodes: ElementContent[], depth = 0): ReactNode[] {
  return nodes.map((node, index) => {
    if (node.type !== "element" || depth > DEEPEST) return plain(node);
    const classes = [node.properties.className ?? []].flat().map(String);
    const known = classes.filter((name) => /^(?:hljs-[\w-]+|\w+_)$/.test(name));
    return (
      // biome-ignore lint/suspicious/noArrayIndexKey: the spans of a code never move
      <span key={index} className={known.join(" ") || undefined}>
        {spans(node.children, depth + 1)}
      </span>
    );
  });
}

/** Without recursion: the tree may be deeper than the stack. */
function plain(root: ElementContent): string {
  let text = "";
  const waiting: ElementContent[] = [root];
  for (let node = waiting.pop(); node; node = waiting.pop()) {
    if (node.type === "element") waiting.push(...node.children.toReversed());
    else if (node.type === "text") text += node.value;
  }
  return text;
}

/** A code block. parts: its code in pieces, of which only the last changes. open: it is still being written. */
export function Code({ parts, language, open }: { parts: string[]; language: string; open: boolean }) {
  const t = useTexts();
  const colours = useColours(parts, language, open);
  return (
    <figure className="md-code">
      <figcaption>
        <span>{language}</span>
        <CopyButton code={() => parts.join("")} label={t.copyCode} done={t.copied} />
      </figcaption>
      {/* biome-ignore lint/a11y/noNoninteractiveTabindex: what scrolls has to be reached by the keyboard */}
      <pre dir="ltr" tabIndex={0}>
        <code>
          {colours ??
            // biome-ignore lint/suspicious/noArrayIndexKey: pieces are only added at the end
            parts.map((part, index) => <Lines key={index} text={part} />)}
        </code>
      </pre>
    </figure>
  );
}

const Lines = memo(function Lines({ text }: { text: string }) {
  return <span className="md-lines">{text}</span>;
});

function useColours(parts: string[], language: string, open: boolean): ReactNode[] | null {
  const still = useContext(StillContext);
  const [state, setState] = useState<{ code: string; colours: ReactNode[] } | null>(null);
  const code = open ? null : parts.join("");
  const stillColours = useMemo(() => {
    const nodes = still && code !== null ? still.code(code, language) : null;
    return nodes && spans(nodes);
  }, [still, code, language]);
  useEffect(() => {
    if (code === null || !languageOf(language)) return;
    let gone = false;
    let cancel = () => {};
    const draw = () => {
      if (gone) return;
      cancel = inSlices(() => {
        const nodes = highlight(code, language);
        if (nodes) setState({ code, colours: spans(nodes) });
      });
    };
    // Without the highlighter (the server is gone) the code stays plain.
    void prepare([language]).then(draw, () => {});
    return () => {
      gone = true;
      cancel();
    };
  }, [code, language]);
  return stillColours ?? (state && state.code === code ? state.colours : null);
}

function CopyButton({ code, label, done }: { code: () => string; label: string; done: string }) {
  const still = useContext(StillContext);
  const [copied, setCopied] = useState(false);
  const timer = useRef<ReturnType<typeof setTimeout>>(undefined);
  useEffect(() => () => clearTimeout(timer.current), []);
  if (still) return null;
  const copy = async () => {
    if (!(await copyText(code()))) return;
    setCopied(true);
    clearTimeout(timer.current);
    timer.current = setTimeout(() => setCopied(false), 2000);
  };
  return (
    <button type="button" className="md-copy" onClick={copy}>
      <span aria-live="polite">{copied ? done : label}</span>
    </button>
  );
}
