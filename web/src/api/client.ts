/** Requests to the server: JSON in and out, the session's CSRF token, and failures as `ApiError`s. */

/** What the server answered instead. `message` says what is wrong and what to do; `code` is for programs. */
export class ApiError extends Error {
  constructor(
    readonly status: number,
    readonly code: string | null,
    message: string,
    readonly retryAfter: number | null = null,
  ) {
    super(message);
    this.name = "ApiError";
  }
}

/** The server could not be reached at all. */
export class Unreachable extends Error {
  constructor() {
    super("the server cannot be reached");
    this.name = "Unreachable";
  }
}

let csrf: string | null = null;
let onSignedOut: () => void = () => {};

/** The token that the changing requests of this session carry; null without a session. */
export function setCsrf(token: string | null): void {
  csrf = token;
}

/** What happens when the server no longer knows this session. */
export function whenSignedOut(handler: () => void): void {
  onSignedOut = handler;
}

export interface RequestOptions {
  method?: "GET" | "POST" | "PATCH" | "DELETE";
  body?: unknown;
  signal?: AbortSignal;
}

/** A request whose answer is wanted as it comes. Throws `ApiError` where the status is not a success. */
export async function send(path: string, { method = "GET", body, signal }: RequestOptions = {}): Promise<Response> {
  const headers: Record<string, string> = {};
  if (body !== undefined) headers["Content-Type"] = "application/json";
  if (csrf !== null && method !== "GET") headers["X-CSRF-Token"] = csrf;
  let response: Response;
  try {
    response = await fetch(path, {
      method,
      headers,
      body: body === undefined ? null : JSON.stringify(body),
      signal: signal ?? null,
    });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new Unreachable();
  }
  if (!response.ok) throw await refusal(response);
  return response;
}

/** A request whose answer is JSON. */
export async function request<T>(path: string, options: RequestOptions = {}): Promise<T> {
  const response = await send(path, options);
  return (response.status === 204 ? undefined : await response.json()) as T;
}

async function refusal(response: Response): Promise<ApiError> {
  const told = (await response.json().catch(() => null)) as { error?: { message?: string; code?: string } } | null;
  // A wrong password is refused with 401 too, also where it is asked of somebody who is signed in.
  if (response.status === 401 && told?.error?.code !== "wrong_password") onSignedOut();
  const after = Number(response.headers.get("Retry-After"));
  const message = told?.error?.message ?? `the server answered with status ${response.status}`;
  return new ApiError(response.status, told?.error?.code ?? null, message, after > 0 ? after : null);
}
