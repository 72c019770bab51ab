/**
 * Ends what the model has begun to write and not yet ended, so that the end of a growing text does not jump between its
 * marks and what they mean: bold text is bold from its first letter, and a link's address never shows.
 */

export interface Mended {
  source: string;
  /** Offset of the end of a formula that still lacks its closing mark. */
  unfinished: number | null;
}

/** Lines that may become anything: a lone marker, a fence's first line, a table's line of dashes. */
const UNDECIDED = /^[ \t]*(?:[-*+_=#>~`$\\ \t]+|\d{1,9}[.)]?|(?:`{3,}|~{3,})[^`\n]*|\\\[|\|?[ \t]*:?-[-:| \t]*)$/;
/** A line that begins a new piece of inline text: an item, a quote, a heading, a table's row. */
const FRESH = /^[ \t]*(?:[-*+>|#]|\d{1,9}[.)])/;

/** A fence, in a list item or a quote as well. */
const FENCE = /^[ \t]*(?:(?:[-*+>]|\d{1,9}[.)])[ \t]+)*(?:`{3,}|~{3,})/gm;

/** Mends a block that is still being written. */
export function mend(block: string): Mended {
  // Inside of code nothing is markup.
  if ((block.match(FENCE)?.length ?? 0) % 2) return { source: block, unfinished: null };
  const source = withoutUndecided(block);
  const from = lastInline(source);
  const { text, unfinished } = mendInline(source.slice(from), from);
  return { source: source.slice(0, from) + text, unfinished };
}

function withoutUndecided(block: string): string {
  const line = block.lastIndexOf("\n") + 1;
  const source = UNDECIDED.test(block.slice(line)) ? block.slice(0, line) : block;
  // A line of bars is a table's head: it waits for the line of dashes.
  const last = source.trimEnd().lastIndexOf("\n") + 1;
  const isHead = source.slice(last).trimStart().startsWith("|") && (last === 0 || !source.slice(0, last).includes("|"));
  return isHead ? source.slice(0, last) : source;
}

/** Where the paragraph, item, row or heading that the block ends with begins. */
function lastInline(source: string): number {
  let from = source.length;
  while (from > 0) {
    const line = source.lastIndexOf("\n", from - 2) + 1;
    if (from < source.length && source.slice(line, from).trim() === "") return from;
    from = line;
    if (FRESH.test(source.slice(line))) break;
  }
  return from;
}

const CLOSERS: Record<string, string> = { "\\(": "\\)", "\\[": "\\]", $$: "$$" };
const OPENERS = /`+|\\[([]|\$\$|\\[\s\S]|\*{1,3}|~~|_{1,2}|\]\(|\[/g;

/** from: where the text stands in the block. */
function mendInline(text: string, from: number): { text: string; unfinished: number | null } {
  const open: string[] = [];
  const tokens = new RegExp(OPENERS);
  for (let match = tokens.exec(text); match; match = tokens.exec(text)) {
    const [mark] = match;
    const at = match.index;
    const end = tokens.lastIndex;
    const closer = CLOSERS[mark] ?? (mark.startsWith("`") ? mark : null);
    if (closer) {
      const close = endOf(text, closer, end);
      if (close >= 0) {
        tokens.lastIndex = close;
        continue;
      }
      // What stands in code or in a formula is not markup.
      const inside = text.slice(end).trim();
      if (!inside) return { text: closed(text.slice(0, at), open), unfinished: null };
      const whole = withoutHalf(text, closer) + closer;
      return { text: closed(whole, open), unfinished: mark.startsWith("`") ? null : from + whole.length };
    }
    if (mark === "](") {
      const close = text.indexOf(")", end);
      if (close < 0 && !/\s[^"'(]/.test(text.slice(end)))
        return { text: closed(`${text.slice(0, end)})`, open), unfinished: null };
    } else if (/^[*_~]/.test(mark) && !emphasis(text, mark, at, open)) {
      return { text: closed(text.slice(0, at), open), unfinished: null };
    }
  }
  return { text: closed(text, open), unfinished: null };
}

/** The end of the closer, or -1. A run of backticks is closed by one as long. */
function endOf(text: string, closer: string, from: number): number {
  for (let at = text.indexOf(closer, from); at >= 0; at = text.indexOf(closer, at + 1)) {
    if (!closer.startsWith("`")) return at + closer.length;
    let end = at;
    while (text[end] === "`") end++;
    if (end - at === closer.length) return end;
    at = end;
  }
  return -1;
}

/** The text without the half of a closer that it ends with. */
function withoutHalf(text: string, closer: string): string {
  return closer.length === 2 && text.endsWith(closer.charAt(0)) ? text.slice(0, -1) : text;
}

/** Opens or closes an emphasis. False: a mark at the very end, which closes nothing and has nothing inside yet. */
function emphasis(text: string, mark: string, at: number, open: string[]): boolean {
  const before = text[at - 1] ?? " ";
  const after = text[at + mark.length] ?? " ";
  if (open.at(-1) === mark && !/\s/.test(before)) open.pop();
  else if (at + mark.length === text.length) return false;
  else if (!/\s/.test(after) && (mark === "**" || mark === "~~" || !/[\p{L}\p{N}]/u.test(before))) open.push(mark);
  return true;
}

/** The text with all that is open closed, before the white space at its end. */
function closed(text: string, open: string[]): string {
  if (!open.length) return text;
  const end = text.trimEnd();
  return end + open.toReversed().join("") + text.slice(end.length);
}
