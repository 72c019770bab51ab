/** Work in slices: what does not fit into a task of the browser waits for the next one, so that the page stays alive. */

/** Milliseconds of a task; a slower machine gets fewer pieces of work into it. */
const SLICE = 8;

const waiting = new Set<() => void>();
let spent = 0;
let planned = false;

function plan() {
  if (planned) return;
  planned = true;
  setTimeout(() => {
    planned = false;
    spent = 0;
    try {
      for (const work of waiting) {
        if (spent >= SLICE) break;
        waiting.delete(work);
        timed(work);
      }
    } finally {
      if (waiting.size) plan();
    }
  });
}

function timed(work: () => void) {
  const start = performance.now();
  work();
  spent += performance.now() - start;
}

/** Does the work at once while this task has time left, else later. Returns what takes it back. */
export function inSlices(work: () => void): () => void {
  if (spent < SLICE && !waiting.size) timed(work);
  else waiting.add(work);
  plan();
  return () => waiting.delete(work);
}
