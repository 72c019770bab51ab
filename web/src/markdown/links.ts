/** The address a link may have, or null: http, https and mailto, read as a browser reads it. */
export function safeUrl(url: string): string | null {
  try {
    // An address without a scheme would lead into this app, which no reply knows.
    const { protocol, href } = new URL(url);
    return ["http:", "https:", "mailto:"].includes(protocol) ? href : null;
  } catch {
    return null;
  }
}
