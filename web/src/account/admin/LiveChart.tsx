/** A line of what was measured lately. */

import { number } from "../../format";
import { useTexts } from "../../i18n";

/** at: milliseconds since 1970. */
export interface Sample {
  at: number;
  running: number;
  speed: number;
}

const WIDTH = 1000;
const HEIGHT = 100;
const GAP = 10_000; // milliseconds without a sample, as while the page was hidden, that break the line

/** span: milliseconds that the width stands for; its right end is the newest sample. */
export function LiveChart({
  title,
  samples,
  of,
  span,
}: {
  title: string;
  samples: readonly Sample[];
  of: "running" | "speed";
  span: number;
}) {
  const t = useTexts().admin;
  const last = samples.at(-1);
  if (last === undefined) return null;
  const most = Math.max(...samples.map((sample) => sample[of]));
  const label = t.liveLabel(title, number(last[of], 1), number(most, 1));
  return (
    <figure className="chart live">
      <figcaption>
        <h3>{title}</h3>
        <span className="soft">{t.lastMinutes}</span>
      </figcaption>
      <div className="plot">
        <span className="most" aria-hidden="true">
          {number(most, 1)}
        </span>
        <svg role="img" aria-label={label} viewBox={`0 0 ${WIDTH} ${HEIGHT}`} preserveAspectRatio="none">
          <path d={path(samples, of, span, most || 1)} />
        </svg>
      </div>
    </figure>
  );
}

export function path(samples: readonly Sample[], of: "running" | "speed", span: number, most: number): string {
  const end = samples.at(-1)?.at ?? 0;
  return samples
    .map((sample, index) => {
      const before = samples[index - 1];
      const x = WIDTH - ((end - sample.at) / span) * WIDTH;
      const y = HEIGHT - (sample[of] / most) * HEIGHT;
      return `${before === undefined || sample.at - before.at > GAP ? "M" : "L"}${x.toFixed(1)} ${y.toFixed(1)}`;
    })
    .join(" ");
}
