import { readdir, readFile, writeFile } from "node:fs/promises";
import { extname, join, resolve } from "node:path";
import { promisify } from "node:util";
import { brotliCompress, constants, gzip } from "node:zlib";
import type { Plugin, ResolvedConfig } from "vite";

// What is not compressed already: pictures and woff2 are.
const KINDS = new Set([".bcmap", ".css", ".html", ".js", ".json", ".mjs", ".svg", ".ttf", ".wasm", ".webmanifest"]);
const LEAST = 1024; // bytes; less fits into a packet or two either way

/** Writes FILE.br and FILE.gz beside the build's files, so that the server compresses nothing. */
export function precompress(): Plugin {
  let config: ResolvedConfig;
  return {
    name: "millet:precompress",
    apply: "build",
    configResolved(resolved) {
      config = resolved;
    },
    writeBundle: {
      order: "post", // what other plugins write is compressed as well
      sequential: true,
      async handler() {
        const folder = resolve(config.root, config.build.outDir);
        const files = await readdir(folder, { recursive: true });
        await Promise.all(files.filter((file) => KINDS.has(extname(file))).map((file) => compress(join(folder, file))));
      },
    },
  };
}

async function compress(file: string): Promise<void> {
  const content = await readFile(file);
  if (content.length <= LEAST) return;
  const params = { [constants.BROTLI_PARAM_SIZE_HINT]: content.length };
  const packed = {
    br: await promisify(brotliCompress)(content, { params }),
    gz: await promisify(gzip)(content, { level: 9 }),
  };
  for (const [ending, bytes] of Object.entries(packed)) {
    if (bytes.length < content.length) await writeFile(`${file}.${ending}`, bytes);
  }
}
