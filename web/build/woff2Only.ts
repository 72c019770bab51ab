import type { Plugin } from "vite";

/** Leaves older font formats out of stylesheets, and so out of the build: every browser that it is for takes woff2. */
export function woff2Only(): Plugin {
  return {
    name: "millet:woff2-only",
    apply: "build",
    enforce: "pre", // before Vite makes files of what stylesheets name
    transform: {
      filter: { id: /\.css$/ },
      handler(code) {
        return code.replace(/,\s*url\([^)]+\)\s*format\(["'](?:woff|truetype)["']\)/g, "");
      },
    },
  };
}
