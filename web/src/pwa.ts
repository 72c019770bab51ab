/** Registers the service worker. Where there is none (development, plain HTTP on another machine) the app does without. */
export function registerServiceWorker(): void {
  if (!import.meta.env.PROD || !("serviceWorker" in navigator)) return;
  // After the page's own files, which it would compete with.
  addEventListener("load", () => {
    navigator.serviceWorker.register("/sw.js").catch((error: unknown) => console.warn("no service worker:", error));
  });
}
