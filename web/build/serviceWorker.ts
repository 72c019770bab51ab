import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { type Plugin, type ResolvedConfig, type Rolldown, transformWithOxc } from "vite";

const SOURCE = "src/sw.ts";
const UNHASHED = ["icon.svg", "manifest.webmanifest"]; // of public/: what the first page asks for besides

/**
 * Builds src/sw.ts as /sw.js, at the root, as a service worker's scope is its folder.
 *
 * It is told the app's shell: what index.html loads at once. The name of its cache is a hash of the shell's content, so
 * that the worker is another one exactly when the shell is.
 */
export function serviceWorker(): Plugin {
  let config: ResolvedConfig;
  return {
    name: "millet:service-worker",
    apply: "build",
    enforce: "post", // after index.html has been written
    configResolved(resolved) {
      config = resolved;
    },
    generateBundle: {
      order: "post",
      async handler(_options, bundle) {
        const page = bundle["index.html"];
        if (page?.type !== "asset") this.error("the bundle has no index.html, so the service worker knows no shell");
        const files = shell(bundle);
        const hash = createHash("sha256").update(page.source).update(files.join("\n"));
        for (const file of UNHASHED) hash.update(readFileSync(join(config.publicDir, file)));
        const source = join(config.root, SOURCE);
        const { code } = await transformWithOxc(readFileSync(source, "utf8"), source, {
          target: "es2022",
          define: {
            __SHELL__: JSON.stringify(["/", ...[...files, ...UNHASHED].map((file) => `/${file}`)]),
            __BUILD__: JSON.stringify(hash.digest("hex").slice(0, 16)),
          },
        });
        this.emitFile({ type: "asset", fileName: "sw.js", source: code });
      },
    },
  };
}

/** The entry's script, the scripts it imports at once, and their stylesheets. */
function shell(bundle: Rolldown.OutputBundle): string[] {
  const found = new Set<string>();
  const visit = (name: string) => {
    const chunk = bundle[name];
    if (chunk?.type !== "chunk" || found.has(name)) return;
    found.add(name);
    for (const style of chunk.viteMetadata?.importedCss ?? []) found.add(style);
    chunk.imports.forEach(visit);
  };
  for (const [name, chunk] of Object.entries(bundle)) if (chunk.type === "chunk" && chunk.isEntry) visit(name);
  return [...found].sort();
}
