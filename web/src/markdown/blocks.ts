/**
 * Splits Markdown that is still being written into blocks, so that the work of an update does not grow with the text:
 * settled blocks never change, only the last is parsed again, and no block is longer than LIMIT characters.
 *
 * The split looks at whole lines, and cuts a longer line at a place that follows from the characters before it. So the
 * blocks do not depend on the pieces in which a text arrives, and their sources joined are the text.
 *
 * Where this departs from CommonMark: no indented code (models indent paragraphs, they fence code), a table ends at the
 * first line without a bar, and a fence inside a list item may hold lines that are indented less than the item.
 */

/** The longest block, in characters: what the parser reads at each update. */
export const LIMIT = 2000;

export interface Fence {
  /** Width of the white space before the fence; code lines lose as much. */
  indent: number;
  mark: "`" | "~";
  size: number;
  info: string;
}

export interface Block {
  kind: "text" | "code" | "math" | "table";
  source: string;
  /** One construct with the block before, which was too long for one block. */
  continues: boolean;
  /** A formula or code whose end is there. Meaningless for other kinds. */
  closed: boolean;
  /** Of code. */
  fence: Fence | null;
  /** Of a table that goes on: the lines that make its head. */
  head: string;
  /** Of a numbered list that goes on: the number of its first item. */
  ordinal: number | null;
}

/** A fence inside a list item. start: where its line begins, or -1 where it shares the line with the item's marker. */
interface InnerFence extends Fence {
  start: number;
}

interface List {
  name: "list";
  /** Column of the first item's text: what is indented less, and has a marker, is the next item. */
  offset: number;
  marker: string;
  first: number;
  items: number;
  lastItem: number;
  gap: boolean;
  fence: InnerFence | null;
}

type Mode =
  | { name: "new" }
  | { name: "text"; lastLine: number }
  | { name: "code"; fence: Fence }
  | { name: "math"; closer: string }
  | { name: "table"; head: string }
  | List;

export interface Split {
  text: string;
  settled: readonly Block[];
  /** The last block, which the next characters may change. Its source may be empty. */
  open: Block;
  /** Where the open block starts, and the first line that was not yet looked at. */
  start: number;
  line: number;
  /** `line` is inside a line that was cut, so that no syntax can begin there. */
  inside: boolean;
  mode: Mode;
  continues: boolean;
  ordinal: number | null;
}

const NEW: Mode = { name: "new" };
const FENCE = /^(\s*)(`{3,}|~{3,})(.*)$/;
const ITEM = /^(\s*)([-*+]|(\d{1,9})([.)]))(?:([ \t]+)(?=\S)|[ \t]*$)/;
const ITEMS = /^\s*(?:(?:[-*+]|\d{1,9}[.)])[ \t]+)+/;
const RULE = /^\s*([-*_])(?:[ \t]*\1){2,}[ \t]*$/;
const HEADING = /^#{1,6}(?:\s|$)/;
const DELIMITERS = /^\s*\|?(?:\s*:?-+:?\s*\|)*\s*:?-+:?\s*\|?\s*$/;

const EMPTY: Split = {
  text: "",
  settled: [],
  open: {
    kind: "text",
    source: "",
    continues: false,
    closed: false,
    fence: null,
    head: "",
    ordinal: null,
  },
  start: 0,
  line: 0,
  inside: false,
  mode: NEW,
  continues: false,
  ordinal: null,
};

/** The blocks of a text. before: the split of an earlier, shorter state of the text, to go on from. */
export function split(text: string, before: Split = EMPTY): Split {
  return new Scanner(text, text.startsWith(before.text) ? before : EMPTY).run();
}

const isBlank = (line: string) => line.trim() === "";
const indentOf = (line: string) => (/^\s*/.exec(line)?.[0] ?? "").replaceAll("\t", "    ").length;

function openingFence(line: string): Fence | null {
  const match = FENCE.exec(line);
  if (!match) return null;
  const [, indent = "", marks = "", info = ""] = match;
  const mark = marks[0] as "`" | "~";
  if (mark === "`" && info.includes("`")) return null;
  return { indent: indentOf(indent), mark, size: marks.length, info: info.trim() };
}

export function closesFence(line: string, fence: Fence): boolean {
  const marks = line.trim();
  return marks.length >= fence.size && marks === fence.mark.repeat(marks.length);
}

/** Where the formula that begins the line ends: its closer. Null where the line begins none, or has text after it. */
function openingMath(line: string): { closer: string; closed: boolean } | null {
  const rest = line.trim();
  const closer = rest.startsWith("$$") ? "$$" : rest.startsWith("\\[") ? "\\]" : null;
  if (!closer) return null;
  const end = rest.indexOf(closer, 2);
  if (end < 0) return { closer, closed: false };
  return end > 2 && end + 2 === rest.length ? { closer, closed: true } : null;
}

interface Item {
  indent: number;
  offset: number;
  marker: string;
  first: number;
  isEmpty: boolean;
}

function itemOf(line: string): Item | null {
  const match = ITEM.exec(line);
  if (!match || RULE.test(line)) return null;
  const indent = indentOf(line);
  const [, , label = "", number, delimiter, space] = match;
  const width = space === undefined || space.length > 4 ? 1 : space.length;
  const offset = indent + label.length + width;
  return { indent, offset, marker: delimiter ?? label, first: Number(number ?? 0), isEmpty: space === undefined };
}

function cells(line: string): number {
  const row = line
    .trim()
    .replace(/\\./g, "")
    .replace(/^\||\|$/g, "");
  return row.split("|").length;
}

class Scanner {
  private readonly text: string;
  private readonly settled: Block[];
  private start: number;
  private line: number;
  private inside: boolean;
  private mode: Mode;
  private continues: boolean;
  private ordinal: number | null;

  constructor(text: string, before: Split) {
    this.text = text;
    this.settled = [...before.settled];
    this.start = before.start;
    this.line = before.line;
    this.inside = before.inside;
    this.mode = before.mode;
    this.continues = before.continues;
    this.ordinal = before.ordinal;
  }

  run(): Split {
    for (;;) {
      const newline = this.text.indexOf("\n", this.line);
      const end = newline < 0 ? this.text.length : newline + 1;
      if (end - this.start > LIMIT) this.cut();
      else if (newline < 0) break;
      else this.take(this.text.slice(this.line, newline), end);
    }
    const { text, settled, start, line, inside, mode, continues, ordinal } = this;
    return { text, settled, open: this.block(text.length, false), start, line, inside, mode, continues, ordinal };
  }

  private block(end: number, closed: boolean): Block {
    const { mode, continues, ordinal } = this;
    const kind = mode.name === "new" || mode.name === "list" ? "text" : mode.name;
    return {
      kind,
      source: this.text.slice(this.start, end),
      continues,
      closed,
      fence: mode.name === "code" ? mode.fence : null,
      head: mode.name === "table" && continues ? mode.head : "",
      ordinal,
    };
  }

  /** Ends the open block at `end`; the scan goes on there, in the given mode. */
  private settle(
    end: number,
    mode: Mode = NEW,
    { closed = false, continues = false, ordinal = null as number | null } = {},
  ) {
    if (end > this.start) this.settled.push(this.block(end, closed));
    this.start = end;
    this.line = end;
    this.inside = false;
    this.mode = mode;
    this.continues = continues;
    this.ordinal = ordinal;
  }

  private advance(end: number, mode: Mode) {
    this.mode = mode;
    this.line = end;
    this.inside = false;
  }

  private take(line: string, end: number) {
    const mode = this.mode;
    if (this.inside) this.advance(end, mode);
    else if (mode.name === "new") this.begin(line, end);
    else if (mode.name === "text") this.takeText(line, end, mode.lastLine);
    else if (mode.name === "list") this.takeList(line, end, mode);
    else if (mode.name === "math") this.takeMath(line, end, mode.closer);
    else if (mode.name === "code") {
      if (closesFence(line, mode.fence)) this.settle(end, NEW, { closed: true });
      else this.advance(end, mode);
    } else if (isBlank(line)) this.settle(end);
    else if (line.includes("|")) this.advance(end, mode);
    else this.settle(this.line);
  }

  /** The first line of a block. */
  private begin(line: string, end: number) {
    if (isBlank(line)) {
      this.advance(end, NEW);
      return;
    }
    if (this.line > this.start) this.settle(this.line, NEW, { continues: this.continues, ordinal: this.ordinal });
    const fence = openingFence(line);
    const math = openingMath(line);
    const item = itemOf(line);
    if (fence) {
      this.continues = false;
      this.advance(end, { name: "code", fence });
    } else if (math) {
      this.continues = false;
      this.mode = { name: "math", closer: math.closer };
      if (math.closed) this.settle(end, NEW, { closed: true });
      else this.advance(end, this.mode);
    } else if (item) {
      const inner = this.innerFence(line);
      const { offset, marker } = item;
      const first = this.ordinal ?? item.first;
      const from = { first, items: 1, lastItem: this.line };
      this.advance(end, { name: "list", offset, marker, ...from, gap: false, fence: inner });
    } else this.advance(end, { name: "text", lastLine: this.line });
  }

  private takeText(line: string, end: number, lastLine: number) {
    if (isBlank(line)) {
      this.settle(end);
      return;
    }
    const item = itemOf(line);
    if ((item && !item.isEmpty && item.first <= 1) || openingFence(line) || openingMath(line)) {
      this.settle(this.line);
      return;
    }
    const before = this.text.slice(lastLine, this.line);
    if (before.includes("|") && line.includes("-") && DELIMITERS.test(line) && cells(before) === cells(line)) {
      if (lastLine > this.start) this.settle(lastLine);
      this.advance(end, { name: "table", head: this.text.slice(lastLine, end) });
      return;
    }
    this.advance(end, { name: "text", lastLine: this.line });
  }

  private takeMath(line: string, end: number, closer: string) {
    const at = line.indexOf(closer);
    if (at < 0) {
      this.advance(end, this.mode);
      return;
    }
    // What stands behind the formula in its last line is a block of its own.
    const rest = line.slice(at + closer.length);
    this.settle(isBlank(rest) ? end : this.line + at + closer.length, NEW, { closed: true });
  }

  private innerFence(line: string): InnerFence | null {
    const marker = ITEMS.exec(line)?.[0] ?? "";
    const fence = openingFence(line.slice(marker.length));
    if (!fence) return null;
    return marker ? { ...fence, indent: marker.length, start: -1 } : { ...fence, start: this.line };
  }

  private takeList(line: string, end: number, list: List) {
    if (isBlank(line)) {
      this.advance(end, { ...list, gap: true });
      return;
    }
    const indent = indentOf(line);
    if (list.fence && list.fence.start > this.start && indent < list.fence.indent) {
      // The item's code is indented less than the item: a code block of its own, as its author meant it.
      this.settle(list.fence.start);
      return;
    }
    if (list.fence && indent > 0) {
      this.advance(end, { ...list, gap: false, fence: closesFence(line, list.fence) ? null : list.fence });
      return;
    }
    const item = itemOf(line);
    if (item && item.indent < list.offset) {
      if (item.marker !== list.marker) this.settle(this.line);
      else {
        const next = { items: list.items + 1, lastItem: this.line, gap: false, fence: this.innerFence(line) };
        this.advance(end, { ...list, ...next });
      }
      return;
    }
    if (indent === 0 && (list.gap || HEADING.test(line) || openingFence(line) || openingMath(line))) {
      this.settle(this.line);
      return;
    }
    this.advance(end, { ...list, gap: false, fence: this.innerFence(line) });
  }

  /** The open block is too long: ends it at the best place. */
  private cut() {
    const mode = this.mode;
    const atLine = this.line > this.start;
    if (mode.name === "code") {
      const end = atLine ? this.line : this.characterBefore(this.start + LIMIT);
      this.settle(end, mode, { continues: true });
      this.inside = !atLine;
    } else if (mode.name === "table" && atLine) this.settle(this.line, mode, { continues: true });
    else if (mode.name === "list" && mode.lastItem > this.start) {
      this.settle(mode.lastItem, NEW, { continues: true, ordinal: mode.first + mode.items - 1 });
    } else if (mode.name === "list" && mode.fence && mode.fence.start > this.start) this.settle(mode.fence.start);
    else if (mode.name === "list" && mode.fence && atLine) this.settle(this.line, { name: "code", fence: mode.fence });
    else {
      // A formula this long is none.
      if (mode.name === "math" || mode.name === "table") this.mode = { name: "text", lastLine: this.start };
      if (atLine) this.settle(this.line, NEW, { continues: true });
      else {
        const end = this.wordBefore(this.start + LIMIT);
        this.settle(end, { name: "text", lastLine: end }, { continues: true });
        this.inside = true;
      }
    }
  }

  /** Never between the halves of a character. */
  private characterBefore(at: number): number {
    const code = this.text.charCodeAt(at);
    return code >= 0xdc00 && code <= 0xdfff ? at - 1 : at;
  }

  /** The last place in the second half of the block where a word begins, so that the rest begins no syntax. */
  private wordBefore(at: number): number {
    for (let place = at; place > at - LIMIT / 2; place--) {
      if (/[\s。，、；：！？]\p{L}/u.test(this.text.slice(place - 1, place + 1))) return place;
    }
    return this.characterBefore(at);
  }
}
