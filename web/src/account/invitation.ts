/**
 * The links that let somebody in: /invite#TOKEN makes an account, /invite#reset=TOKEN sets the password of one that is
 * there. What stands behind # is never sent to a server, so that no log has it.
 */

const PATH = "/invite";
const RESET = "reset=";

export interface Link {
  token: string;
  reset: boolean;
}

export function writeLink(origin: string, { token, reset }: Link): string {
  return `${origin}${PATH}#${reset ? RESET : ""}${token}`;
}

/** Null without a token. */
export function readLink(fragment: string): Link | null {
  const text = fragment.replace(/^#/, "");
  const reset = text.startsWith(RESET);
  const token = reset ? text.slice(RESET.length) : text;
  return token === "" ? null : { token, reset };
}
