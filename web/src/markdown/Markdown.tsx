import { Fragment, memo, useContext, useEffect, useMemo, useRef, useState } from "react";
import "../styles/markdown.css";
import { type Block, type Split, split } from "./blocks";
import { Code, codeOf } from "./Code";
import { Formula } from "./Formula";
import { texOf } from "./mathSyntax";
import { mend } from "./mend";
import { parse } from "./parse";
import { definitionsOf, type Rendering, renderAll, rows, TableFrame } from "./render";
import { StillContext } from "./still";

/** How many characters more are drawn in one task, of a text that is long from the start. */
const STEP = 4000;

/** A text from this length on lets the browser leave out what is not in view. */
const LONG = 10_000;

/** A model's text. streaming: it is still being written, so that markup at its end may lack its other half. */
export const Markdown = memo(function Markdown({ text, streaming = false }: { text: string; streaming?: boolean }) {
  const all = useBlocks(text);
  const blocks = useShown(all, text.length);
  const groups = useMemo(() => grouped(blocks), [blocks]);
  const partial = blocks.length < all.length;
  return (
    <div className={text.length < LONG ? "md" : "md md-long"}>
      {groups.map((pieces, index) => (
        // biome-ignore lint/suspicious/noArrayIndexKey: blocks are only added at the end
        <Group key={index} pieces={pieces} open={(streaming || partial) && index === groups.length - 1} />
      ))}
    </div>
  );
});

function useBlocks(text: string): readonly Block[] {
  const before = useRef<Split>(undefined);
  const state = useMemo(() => split(text, before.current), [text]);
  useEffect(() => {
    before.current = state;
  }, [state]);
  return useMemo(() => [...state.settled, state.open], [state]);
}

/** The blocks to draw now: of a long text the first ones, more in each task. */
function useShown(blocks: readonly Block[], length: number): readonly Block[] {
  const still = useContext(StillContext);
  const [allowed, setAllowed] = useState(STEP);
  useEffect(() => {
    if (allowed >= length + STEP / 4) return;
    const timer = setTimeout(() => setAllowed(allowed + STEP));
    return () => clearTimeout(timer);
  }, [allowed, length]);
  return useMemo(() => {
    if (still || length <= allowed) return blocks;
    let offset = 0;
    return blocks.filter((block) => {
      offset += block.source.length;
      return offset - block.source.length < allowed;
    });
  }, [blocks, still, length, allowed]);
}

/** The pieces of one code block or one table stand together. */
function grouped(blocks: readonly Block[]): Block[][] {
  const groups: Block[][] = [];
  for (const block of blocks) {
    if (!block.source.trim() && block.kind !== "code") continue;
    const last = groups.at(-1);
    const joins = block.continues && (block.kind === "code" || block.kind === "table");
    if (joins && last?.[0]?.kind === block.kind) last.push(block);
    else groups.push([block]);
  }
  return groups;
}

const Group = memo(
  function Group({ pieces, open }: { pieces: Block[]; open: boolean }) {
    const [first] = pieces;
    const last = pieces.at(-1);
    if (!first || !last) return null;
    if (first.kind === "code") {
      const language = /^[^\s{,]*/.exec(first.fence?.info ?? "")?.[0] ?? "";
      return <Code parts={codeOf(pieces)} language={language} open={open && !last.closed} />;
    }
    if (first.kind === "table") return <LongTable pieces={pieces} open={open} />;
    if (first.kind === "math") {
      if (first.closed) return <Formula {...texOf(first.source)} />;
      if (open) return <Formula tex={first.source.trim().slice(2)} display unfinished />;
    }
    return <TextBlock block={first} open={open} />;
  },
  (a, b) =>
    a.open === b.open && a.pieces.length === b.pieces.length && a.pieces.every((piece, i) => same(piece, b.pieces[i])),
);

const same = (a: Block, b: Block | undefined) => a === b || (a.source === b?.source && a.closed === b.closed);

function useTree(source: string, block: Block, open: boolean) {
  return useMemo(() => {
    const mended = open ? mend(source) : { source, unfinished: null };
    const { children } = parse(mended.source);
    const { continues, ordinal } = block;
    const context: Rendering = {
      definitions: definitionsOf(children),
      continues,
      ordinal,
      inLink: false,
      unfinished: mended.unfinished,
    };
    return { children, context };
  }, [source, block, open]);
}

const TextBlock = memo(function TextBlock({ block, open }: { block: Block; open: boolean }) {
  const { children, context } = useTree(block.source, block, open);
  return <Fragment>{renderAll(children, context)}</Fragment>;
});

function LongTable({ pieces, open }: { pieces: Block[]; open: boolean }) {
  return (
    <TableFrame>
      <table className={pieces.length > 1 ? "md-table-long" : undefined}>
        {pieces.map((piece, index) => (
          // biome-ignore lint/suspicious/noArrayIndexKey: pieces are only added at the end
          <TablePiece key={index} block={piece} open={open && index === pieces.length - 1} />
        ))}
      </table>
    </TableFrame>
  );
}

const TablePiece = memo(function TablePiece({ block, open }: { block: Block; open: boolean }) {
  const { children, context } = useTree(block.head + block.source, block, open);
  const [table] = children;
  if (table?.type === "table") return rows(table, context, 0, block.head !== "");
  return (
    <tbody>
      <tr>
        <td>{block.source}</td>
      </tr>
    </tbody>
  );
});
