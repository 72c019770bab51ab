/// <reference types="vitest/config" />
import react from "@vitejs/plugin-react";
import { defineConfig } from "vite";
import { precompress } from "./build/precompress.ts";
import { serviceWorker } from "./build/serviceWorker.ts";
import { woff2Only } from "./build/woff2Only.ts";

export default defineConfig({
  plugins: [react(), woff2Only(), serviceWorker(), precompress()],
  build: {
    outDir: "../millet/serve/web",
    emptyOutDir: true,
    target: "es2022",
    // A preloaded module needs no polyfill in the browsers that the target names; the polyfill is an inline script.
    modulePreload: { polyfill: false },
    // Data addresses in stylesheets would need an exception in the Content-Security-Policy for fonts.
    assetsInlineLimit: 0,
  },
  server: { proxy: { "/api": "http://127.0.0.1:8080", "/v1": "http://127.0.0.1:8080" } },
  test: {
    environment: "happy-dom",
    include: ["src/**/*.test.{ts,tsx}"],
    setupFiles: ["test/setup.ts"],
    testTimeout: 60_000, // for what hangs; a machine that is busy is no failure
  },
});
