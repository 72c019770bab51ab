/** Where to go after signing in: a path of this site and of nowhere else, however it is written. */
export function safeNext(search: string, origin: string): string {
  const next = new URLSearchParams(search).get("next") ?? "/";
  try {
    const address = new URL(next, origin);
    const here =
      address.origin === origin && next.startsWith("/") && !/^\/(\/|login\b|invite\b)/.test(address.pathname);
    return here ? address.pathname + address.search + address.hash : "/";
  } catch {
    return "/";
  }
}
