import { readFile } from "node:fs/promises";
import { beforeAll, describe, expect, test, vi } from "vitest";
import { AttachmentError, readAttachment } from "./read";

const bytes = (...parts: (string | number[])[]) =>
  Uint8Array.from(
    parts.flatMap((part) => (typeof part === "string" ? Array.from(part, (c) => c.charCodeAt(0)) : part)),
  );
const file = (content: string | Uint8Array<ArrayBuffer>, name = "file") => new File([content], name);
const textOf = async (content: string | Uint8Array<ArrayBuffer>) => (await readAttachment(file(content))).text;

async function reasonOf(content: string | Uint8Array<ArrayBuffer>): Promise<string> {
  const error = await readAttachment(file(content)).catch((error) => error);
  expect(error).toBeInstanceOf(AttachmentError);
  return error.reason;
}

describe("text", () => {
  test("is read by its content, whatever the name", async () => {
    expect(await readAttachment(file("print(1)\r\n# 好\n", "a.exe"))).toEqual({
      name: "a.exe",
      text: "print(1)\n# 好\n",
    });
  });

  test("of UTF-8 and UTF-16 with their marks", async () => {
    expect(await textOf(bytes([0xef, 0xbb, 0xbf], "hi"))).toBe("hi");
    expect(await textOf(bytes([0xff, 0xfe, 0x60, 0x4f, 0x41, 0x00]))).toBe("你A");
    expect(await textOf(bytes([0xfe, 0xff, 0x4f, 0x60, 0x00, 0x41]))).toBe("你A");
  });

  test("of GB18030", async () => {
    expect(await textOf(bytes([0xc4, 0xe3, 0xba, 0xc3], ", GB\n"))).toBe("你好, GB\n");
  });
});

describe("what is no text", () => {
  test("is refused", async () => {
    expect(await reasonOf(bytes([0x89], "PNG\r\n", [0x1a], "\n", [0, 0, 0, 13], "IHDR"))).toBe("notText");
    expect(await reasonOf(bytes("PK", [3, 4, 20, 0, 8, 0]))).toBe("notText");
    expect(await reasonOf(bytes([0xff, 0xd8, 0xff, 0xe0, 0, 16], "JFIF"))).toBe("notText");
    expect(await reasonOf(Uint8Array.from({ length: 4096 }, (_, i) => (i * 7919 + 200 + (i >> 3)) % 256))).toBe(
      "notText",
    );
    expect(await reasonOf("a\0b")).toBe("notText");
  });

  test("an empty file has no text", async () => {
    expect(await reasonOf(" \n")).toBe("noText");
  });

  test("a file over the limit names the limit", async () => {
    const large = new File([new Uint8Array(10 * 2 ** 20 + 1).fill(97)], "large.txt");
    await expect(readAttachment(large)).rejects.toMatchObject({ reason: "tooLarge", limit: "10 MB" });
    const pdf = new File(["%PDF-1.7\n", new Uint8Array(50 * 2 ** 20)], "large.pdf");
    await expect(readAttachment(pdf)).rejects.toMatchObject({ reason: "tooLarge", limit: "50 MB" });
  });

  test("a file that is gone is unreadable", async () => {
    const gone = file("x");
    gone.slice = () =>
      ({ arrayBuffer: () => Promise.reject(new DOMException("gone", "NotFoundError")) }) as unknown as Blob;
    await expect(readAttachment(gone)).rejects.toMatchObject({ reason: "unreadable" });
  });
});

/** A PDF of one page a content stream, with one font. extra: objects from number 100 on that the font refers to. */
function pdf(contents: string[], font: string, extra: string[] = []): Uint8Array<ArrayBuffer> {
  const pages = contents.map((_, index) => `${10 + index * 2} 0 R`).join(" ");
  const objects: [number, string][] = [
    [1, "<< /Type /Catalog /Pages 2 0 R >>"],
    [2, `<< /Type /Pages /Kids [${pages}] /Count ${contents.length} >>`],
    [3, font],
    ...contents.flatMap((content, index): [number, string][] => [
      [
        10 + index * 2,
        `<< /Type /Page /Parent 2 0 R /MediaBox [0 0 300 300] /Resources << /Font << /F 3 0 R >> >> /Contents ${11 + index * 2} 0 R >>`,
      ],
      [11 + index * 2, `<< /Length ${content.length} >>\nstream\n${content}\nendstream`],
    ]),
    ...extra.map((object, index): [number, string] => [100 + index, object]),
  ];
  let body = "%PDF-1.7\n";
  const table = new Map<number, number>();
  for (const [number, object] of objects) {
    table.set(number, body.length);
    body += `${number} 0 obj\n${object}\nendobj\n`;
  }
  const xref = body.length;
  const entries = Array.from(table, ([n, at]) => `${n} 1\n${String(at).padStart(10, "0")} 00000 n \n`).join("");
  body += `xref\n0 1\n0000000000 65535 f \n${entries}trailer\n<< /Size 200 /Root 1 0 R >>\nstartxref\n${xref}\n%%EOF`;
  return bytes(body);
}

const HELVETICA = "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>";

describe("PDF", () => {
  beforeAll(async () => {
    // pdf.js runs its worker's code in this thread where it finds it.
    // @ts-expect-error: the worker has no types
    await import("pdfjs-dist/legacy/build/pdf.worker.mjs");
    vi.stubGlobal("fetch", async (url: string) => {
      if (!url.startsWith("/node_modules/pdfjs-dist/cmaps/")) throw new Error(`asked for ${url}`);
      return new Response(await readFile(`.${url.split("?")[0]}`));
    });
    return () => vi.unstubAllGlobals();
  });

  test("the text of its pages", async () => {
    const first = "BT /F 12 Tf 20 250 Td (Hello world) Tj 0 -20 Td (second line) Tj ET";
    const text = await textOf(pdf([first, "BT /F 12 Tf 20 250 Td (Page two) Tj ET"], HELVETICA));
    expect(text).toBe("Hello world\nsecond line\n\nPage two");
  });

  test("Chinese text by the character tables of the build", async () => {
    const font =
      "<< /Type /Font /Subtype /Type0 /BaseFont /STSong-Light /Encoding /UniGB-UCS2-H /DescendantFonts [100 0 R] >>";
    const descendant =
      "<< /Type /Font /Subtype /CIDFontType0 /BaseFont /STSong-Light /FontDescriptor 101 0 R /DW 1000 " +
      "/CIDSystemInfo << /Registry (Adobe) /Ordering (GB1) /Supplement 2 >> >>";
    const descriptor =
      "<< /Type /FontDescriptor /FontName /STSong-Light /Flags 4 /FontBBox [0 -200 1000 900] /ItalicAngle 0 " +
      "/Ascent 900 /Descent -200 /CapHeight 800 /StemV 80 >>";
    expect(await textOf(pdf(["BT /F 12 Tf 20 250 Td <4F60597D4E16754C> Tj ET"], font, [descendant, descriptor]))).toBe(
      "你好世界",
    );
  });

  test("without text, damaged or locked", async () => {
    expect(await reasonOf(pdf(["0 0 100 100 re f"], HELVETICA))).toBe("noText");
    expect(await reasonOf("%PDF-1.7\nnothing of the kind")).toBe("unreadable");
    const locked = pdf(["BT /F 12 Tf (x) Tj ET"], HELVETICA, [
      `<< /Filter /Standard /V 1 /R 2 /O <${"41".repeat(32)}> /U <${"42".repeat(32)}> /P -4 >>`,
    ]);
    const source = new TextDecoder("latin1")
      .decode(locked)
      .replace("/Root 1 0 R", `/Root 1 0 R /ID [<${"00".repeat(16)}> <${"00".repeat(16)}>] /Encrypt 100 0 R`);
    expect(await reasonOf(bytes(source))).toBe("unreadable");
  });
});
