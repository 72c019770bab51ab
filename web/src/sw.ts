// The service worker: the page opens at once, and without a network too. What people wrote is none of its business; it
// keeps the app's own files and nothing else.

// The types of a worker's globals exclude those of a page, which the rest of the app is checked with.
interface ExtendableEvent extends Event {
  waitUntil(work: Promise<unknown>): void;
}
interface FetchEvent extends ExtendableEvent {
  readonly request: Request;
  respondWith(response: Promise<Response>): void;
}
declare const clients: { claim(): Promise<void> };
declare function addEventListener(type: "install" | "activate", listener: (event: ExtendableEvent) => void): void;
declare function addEventListener(type: "fetch", listener: (event: FetchEvent) => void): void;

// Set by build/serviceWorker.ts.
declare const __SHELL__: string[]; // paths of what index.html loads at once
declare const __BUILD__: string; // a hash of them
const CACHE = `millet-${__BUILD__}`;

addEventListener("install", (event) => {
  const requests = __SHELL__.map(
    (path) => new Request(path, { cache: path.startsWith("/assets/") ? "default" : "reload" }),
  );
  event.waitUntil(caches.open(CACHE).then((cache) => cache.addAll(requests)));
});

// A new worker waits until no page of the old build is open, so that such a page finds its own parts in the old cache.
addEventListener("activate", (event) => {
  event.waitUntil(removeOldCaches().then(() => clients.claim()));
});

addEventListener("fetch", (event) => {
  const { request } = event;
  const { origin, pathname } = new URL(request.url);
  if (request.method !== "GET" || origin !== location.origin || /^\/(api|v1)\//.test(pathname)) return;
  if (request.mode === "navigate") event.respondWith(page(request));
  else if (pathname.startsWith("/assets/")) event.respondWith(asset(request));
  else if (__SHELL__.includes(pathname)) event.respondWith(fetch(request).catch((error) => kept(pathname, error)));
});

/** The network's answer; without a network, the app, which says so itself. */
function page(request: Request): Promise<Response> {
  const { pathname } = new URL(request.url);
  return fetch(request).catch((error) => kept(pathname.includes(".") ? pathname : "/", error));
}

/** From the cache, since its name holds a hash of its content. */
async function asset(request: Request): Promise<Response> {
  const cache = await caches.open(CACHE);
  const known = await cache.match(request.url);
  if (known) return known;
  const response = await fetch(request);
  if (response.status === 200) await cache.put(request.url, response.clone());
  return response;
}

async function kept(path: string, error: unknown): Promise<Response> {
  const response = await caches.match(path, { cacheName: CACHE });
  if (!response) throw error;
  return response;
}

async function removeOldCaches(): Promise<void> {
  const names = (await caches.keys()).filter((name) => name.startsWith("millet-") && name !== CACHE);
  await Promise.all(names.map((name) => caches.delete(name)));
}
