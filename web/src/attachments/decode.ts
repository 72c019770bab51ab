/** Bytes to text: Unicode, or the encoding of older Chinese files. */

/** Signs of a text's first bytes that name its encoding. */
const MARKS: [string, number[]][] = [
  ["utf-8", [0xef, 0xbb, 0xbf]],
  ["utf-16le", [0xff, 0xfe]],
  ["utf-16be", [0xfe, 0xff]],
];

/** What no text has: control characters other than tab, line ends, form feed and escape; noncharacters; private use. */
// biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is looked for
const NOT_TEXT = /[\u0000-\u0008\u000b\u000e-\u001a\u001c-\u001f\u007f\ufffe\uffff]/;
const PRIVATE = /[\ue000-\uf8ff]/;

/** The text, with line ends as \n. Null where the bytes are none. */
export function decode(bytes: Uint8Array): string | null {
  const marked = MARKS.find(([, mark]) => mark.every((byte, index) => bytes[index] === byte));
  const text = marked ? strict(marked[0], bytes) : (strict("utf-8", bytes) ?? chinese(bytes));
  return text === null || NOT_TEXT.test(text) ? null : text.replace(/\r\n?/g, "\n");
}

function chinese(bytes: Uint8Array): string | null {
  const text = strict("gb18030", bytes);
  // Nearly any bytes are characters of this encoding, but binary files hit the unassigned ones soon.
  return text === null || PRIVATE.test(text) ? null : text;
}

function strict(encoding: string, bytes: Uint8Array): string | null {
  try {
    return new TextDecoder(encoding, { fatal: true }).decode(bytes);
  } catch {
    return null;
  }
}
