/** Rows of usage summed up: by whatever a table groups by, and by day for a chart. */

export interface UsageRow {
  account: string;
  day: string;
  model: string;
  key: string | null;
  requests: number;
  prompt_tokens: number;
  cached_tokens: number;
  completion_tokens: number;
  reasoning_tokens: number;
  cost: number;
}

export const SUMMED = [
  "requests",
  "prompt_tokens",
  "cached_tokens",
  "completion_tokens",
  "reasoning_tokens",
  "cost",
] as const;

export type Sums = Record<(typeof SUMMED)[number], number>;
export type Grouping = "day" | "account" | "model" | "key";

export interface Group {
  id: string;
  /** One of its rows, which has what it was grouped by. */
  row: UsageRow;
  sums: Sums;
}

export function sum(rows: readonly UsageRow[]): Sums {
  const sums = Object.fromEntries(SUMMED.map((name) => [name, 0])) as Sums;
  for (const row of rows) for (const name of SUMMED) sums[name] += row[name];
  return sums;
}

/** Days in the server's order, newest first; all else with the most tokens first. */
export function group(rows: readonly UsageRow[], by: Grouping): Group[] {
  const gathered = new Map<string, UsageRow[]>();
  for (const row of rows) {
    const id = by === "day" ? `${row.day} ${row.model}` : (row[by] ?? "");
    const others = gathered.get(id);
    if (others) others.push(row);
    else gathered.set(id, [row]);
  }
  const groups = [...gathered].flatMap(([id, [row, ...rest]]) => (row ? [{ id, row, sums: sum([row, ...rest]) }] : []));
  return by === "day" ? groups : groups.sort((a, b) => tokens(b.sums) - tokens(a.sums));
}

export function tokens(sums: Pick<Sums, "prompt_tokens" | "completion_tokens">): number {
  return sums.prompt_tokens + sums.completion_tokens;
}

export interface Day {
  day: string;
  read: number;
  written: number;
  cost: number;
}

const DAY = 86_400_000;

/** The last days up to today, the oldest first, those without usage too. now: milliseconds since 1970. */
export function byDay(rows: readonly UsageRow[], days: number, now: number): Day[] {
  const found = new Map<string, Day>();
  for (let back = days - 1; back >= 0; back--) {
    const day = new Date(now - back * DAY).toISOString().slice(0, 10);
    found.set(day, { day, read: 0, written: 0, cost: 0 });
  }
  for (const row of rows) {
    const day = found.get(row.day);
    if (day === undefined) continue;
    day.read += row.prompt_tokens;
    day.written += row.completion_tokens;
    day.cost += row.cost;
  }
  return [...found.values()];
}
