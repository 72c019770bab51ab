/**
 * The syntax tree as React elements. Only what is written here can come out: no HTML, no classes, ids or styles of the
 * text, links of three schemes, and no images (a remote image would tell its server who reads this).
 */

import type { AlignType, Definition, ListItem, Nodes, RootContent, Table, TableRow } from "mdast";
import { Fragment, type ReactNode } from "react";
import { Code } from "./Code";
import { Formula } from "./Formula";
import { safeUrl } from "./links";

/** Deeper text is shown plain. */
const DEEPEST = 40;

export interface Rendering {
  definitions: Map<string, Definition>;
  /** The list or paragraph goes on from the block before. */
  continues: boolean;
  ordinal: number | null;
  /** A link holds no links. */
  inLink: boolean;
  /** A formula that ends here (an offset in the source) is still being written. */
  unfinished: number | null;
}

export function definitionsOf(nodes: readonly RootContent[]): Map<string, Definition> {
  const definitions = new Map<string, Definition>();
  const look = (node: Nodes, depth: number) => {
    if (node.type === "definition" && !definitions.has(node.identifier)) definitions.set(node.identifier, node);
    if ("children" in node && depth < DEEPEST) for (const child of node.children) look(child, depth + 1);
  };
  for (const node of nodes) look(node, 0);
  return definitions;
}

export function renderAll(nodes: readonly Nodes[], context: Rendering, depth = 0): ReactNode[] {
  // biome-ignore lint/suspicious/noArrayIndexKey: a text only grows, so that its nodes keep their places
  return nodes.map((node, index) => <Fragment key={index}>{render(node, context, depth)}</Fragment>);
}

function plain(node: Nodes): string {
  if ("value" in node) return node.value;
  if (node.type === "formula") return node.tex;
  return "children" in node ? node.children.map(plain).join("") : "";
}

function render(node: Nodes, context: Rendering, depth: number): ReactNode {
  if (depth > DEEPEST) return plain(node);
  const children = () => ("children" in node ? renderAll(node.children, context, depth + 1) : null);
  const continued = context.continues && depth === 0 ? "md-continued" : undefined;
  switch (node.type) {
    case "paragraph":
      return (
        <p dir="auto" className={continued}>
          {children()}
        </p>
      );
    case "heading": {
      // A message has a heading of the second level, so that its text begins with the third.
      const Heading = `h${Math.min(6, node.depth + 2)}` as "h3";
      return (
        <Heading dir="auto" className={`md-h${node.depth}`}>
          {children()}
        </Heading>
      );
    }
    case "thematicBreak":
      return <hr />;
    case "blockquote":
      return <blockquote className={continued}>{children()}</blockquote>;
    case "list": {
      const items = node.children.map((item, index) => (
        // biome-ignore lint/suspicious/noArrayIndexKey: as above
        <Item key={index} item={item} spread={node.spread || item.spread || false} context={context} depth={depth} />
      ));
      if (!node.ordered) return <ul className={continued}>{items}</ul>;
      const start = (depth === 0 ? context.ordinal : null) ?? node.start ?? 1;
      return (
        <ol className={continued} start={start === 1 ? undefined : start}>
          {items}
        </ol>
      );
    }
    case "code":
      return <Code parts={[node.value]} language={node.lang ?? ""} open={false} />;
    case "formula": {
      const unfinished = context.unfinished !== null && node.position?.end.offset === context.unfinished;
      return <Formula tex={node.tex} display={node.display} unfinished={unfinished} />;
    }
    case "table":
      return (
        <TableFrame>
          <table>{rows(node, context, depth)}</table>
        </TableFrame>
      );
    case "text":
      return withBreaks(node.value);
    case "emphasis":
      return <em>{children()}</em>;
    case "strong":
      return <strong>{children()}</strong>;
    case "delete":
      return <del>{children()}</del>;
    case "inlineCode":
      return <code dir="ltr">{node.value}</code>;
    case "break":
      return <br />;
    case "link":
      return linked(node.url, node.children, context, depth);
    case "linkReference":
      return linked(context.definitions.get(node.identifier)?.url ?? "", node.children, context, depth);
    case "image":
      return linked(node.url, [{ type: "text", value: node.alt || node.url }], context, depth);
    case "imageReference": {
      const url = context.definitions.get(node.identifier)?.url ?? "";
      return linked(url, [{ type: "text", value: node.alt ?? "" }], context, depth);
    }
    default:
      return null;
  }
}

/** `<br>` is the one tag that models cannot do without: a table's cell has no other way to break a line. */
function withBreaks(text: string): ReactNode {
  const lines = text.split(/<br ?\/?>/i);
  if (lines.length === 1) return text;
  // biome-ignore lint/suspicious/noArrayIndexKey: as above
  return lines.map((line, index) => <Fragment key={index}>{index ? [<br key="br" />, line] : line}</Fragment>);
}

function linked(url: string, children: readonly Nodes[], context: Rendering, depth: number): ReactNode {
  const href = context.inLink ? null : safeUrl(url);
  if (!href) return renderAll(children, context, depth + 1);
  return (
    <a href={href} target="_blank" rel="noopener noreferrer nofollow" title={href}>
      {renderAll(children, { ...context, inLink: true }, depth + 1)}
    </a>
  );
}

function Item(props: { item: ListItem; spread: boolean; context: Rendering; depth: number }) {
  const { item, spread, context, depth } = props;
  const children = item.children.map((child, index) => {
    // A tight list's items have no paragraphs.
    const nodes = !spread && child.type === "paragraph" ? child.children : [child];
    // biome-ignore lint/suspicious/noArrayIndexKey: as above
    return <Fragment key={index}>{renderAll(nodes, context, depth + 1)}</Fragment>;
  });
  if (typeof item.checked !== "boolean") return <li dir="auto">{children}</li>;
  return (
    <li dir="auto" className="md-task">
      <input type="checkbox" checked={item.checked} disabled readOnly aria-label={item.checked ? "✓" : "○"} />
      <div>{children}</div>
    </li>
  );
}

export function TableFrame({ children }: { children: ReactNode }) {
  return (
    // biome-ignore lint/a11y/noNoninteractiveTabindex: what scrolls has to be reached by the keyboard
    <div className="md-table" tabIndex={0}>
      {children}
    </div>
  );
}

/** A table's inside. headless: its head was shown before. */
export function rows(table: Table, context: Rendering, depth: number, headless = false): ReactNode {
  const [head, ...body] = table.children;
  return (
    <>
      {head && !headless && (
        <thead>
          <Row row={head} cell="th" align={table.align ?? []} context={context} depth={depth} />
        </thead>
      )}
      {body.length > 0 && (
        <tbody>
          {body.map((row, index) => (
            // biome-ignore lint/suspicious/noArrayIndexKey: as above
            <Row key={index} row={row} cell="td" align={table.align ?? []} context={context} depth={depth} />
          ))}
        </tbody>
      )}
    </>
  );
}

function Row(props: { row: TableRow; cell: "th" | "td"; align: AlignType[]; context: Rendering; depth: number }) {
  const { row, cell: Cell, align, context, depth } = props;
  return (
    <tr>
      {row.children.map((cell, index) => (
        // biome-ignore lint/suspicious/noArrayIndexKey: as above
        <Cell key={index} dir="auto" data-align={align[index] ?? undefined}>
          {renderAll(cell.children, context, depth + 1)}
        </Cell>
      ))}
    </tr>
  );
}
