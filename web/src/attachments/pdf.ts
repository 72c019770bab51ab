/** The text of a PDF, by pdf.js in its own worker. All that it needs comes with this page; nothing is asked of others. */

import { GlobalWorkerOptions, getDocument } from "pdfjs-dist/legacy/build/pdf.mjs";
import workerUrl from "pdfjs-dist/legacy/build/pdf.worker.min.mjs?url";

GlobalWorkerOptions.workerSrc = workerUrl;

/** Tables from the character codes of Chinese, Japanese and Korean fonts to characters; each is loaded when needed. */
const CMAPS = import.meta.glob<string>("/node_modules/pdfjs-dist/cmaps/*.bcmap", {
  query: "?url",
  import: "default",
  eager: true,
});

class BuiltData {
  async fetch({ kind, filename }: { kind: string; filename: string }): Promise<Uint8Array> {
    const url = CMAPS[`/node_modules/pdfjs-dist/cmaps/${filename}`];
    if (kind !== "cMapUrl" || !url) throw new Error(`no ${filename}`);
    const response = await fetch(url);
    if (!response.ok) throw new Error(`no ${filename}`);
    return new Uint8Array(await response.arrayBuffer());
  }
}

/** The text of all pages. Throws what pdf.js throws on files that are damaged or need a password. */
export async function textOf(data: Uint8Array): Promise<string> {
  const task = getDocument({
    data,
    BinaryDataFactory: BuiltData,
    useWorkerFetch: false,
    // The page's Content-Security-Policy allows neither.
    isEvalSupported: false,
    useWasm: false,
    // No page is drawn.
    disableFontFace: true,
    useSystemFonts: false,
    stopAtErrors: false,
    verbosity: 0,
  });
  try {
    const document = await task.promise;
    const pages: string[] = [];
    for (let number = 1; number <= document.numPages; number++) {
      const page = await document.getPage(number);
      const { items } = await page.getTextContent();
      pages.push(
        items
          .map((item) => ("str" in item ? item.str + (item.hasEOL ? "\n" : "") : ""))
          .join("")
          .trim(),
      );
      page.cleanup();
    }
    return pages.filter(Boolean).join("\n\n");
  } finally {
    await task.destroy();
  }
}
