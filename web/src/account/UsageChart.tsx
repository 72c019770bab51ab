/** Bars, one a day. The text is HTML around the SVG, so that it keeps its size however wide the bars are drawn. */

import { useMemo, useState } from "react";
import { compact, money, number, utcDay } from "../format";
import { useTexts } from "../i18n";
import { useSession } from "../session";
import { Select } from "./parts";
import { byDay, type Day, type UsageRow } from "./usage";

const HEIGHT = 100;
const STEP = 10; // of a day; its bar is 8 wide

export function UsageChart({ rows, days }: { rows: readonly UsageRow[]; days: number }) {
  const t = useTexts().admin;
  const { me } = useSession();
  const [what, setWhat] = useState<"tokens" | "cost">("tokens");
  const series = useMemo(() => byDay(rows, days, Date.now()), [rows, days]);
  const costs = series.some((day) => day.cost > 0);
  const ofMoney = what === "cost" && costs;

  const value = (day: Day) => (ofMoney ? day.cost : day.read + day.written);
  const show = (n: number) => (ofMoney ? money(n, me.currency) : number(n));
  const [first, last] = [series[0], series.at(-1)];
  if (first === undefined || last === undefined) return null;
  const highest = series.reduce((best, day) => (value(day) > value(best) ? day : best), first);
  const most = value(highest) || 1;
  const all = series.reduce((sum, day) => sum + value(day), 0);
  const name = ofMoney ? t.chartCost : t.chartTokens;
  const label = t.chartLabel(name, utcDay(first.day), utcDay(last.day), show(all), show(most), utcDay(highest.day));

  return (
    <figure className="chart">
      <figcaption>
        {costs && (
          <Select label={t.chartOf} value={what} onChange={(event) => setWhat(event.target.value as typeof what)}>
            <option value="tokens">{t.chartTokens}</option>
            <option value="cost">{t.chartCost}</option>
          </Select>
        )}
        <ul className="legend">
          {ofMoney ? (
            <li className="written">{t.chartCost}</li>
          ) : (
            <>
              <li className="read">{t.input}</li>
              <li className="written">{t.output}</li>
            </>
          )}
        </ul>
      </figcaption>
      <div className="plot">
        <span className="most" aria-hidden="true">
          {ofMoney ? show(most) : compact(most)}
        </span>
        <svg role="img" aria-label={label} viewBox={`0 0 ${series.length * STEP} ${HEIGHT}`} preserveAspectRatio="none">
          {series.map((day, index) => {
            const read = ofMoney ? 0 : (day.read / most) * HEIGHT;
            const written = ((ofMoney ? day.cost : day.written) / most) * HEIGHT;
            const x = index * STEP + 1;
            return (
              <g key={day.day}>
                <title>{`${utcDay(day.day)}: ${show(value(day))}`}</title>
                <rect className="day" x={index * STEP} y={0} width={STEP} height={HEIGHT} />
                <rect className="read" x={x} y={HEIGHT - read} width={STEP - 2} height={read} />
                <rect className="written" x={x} y={HEIGHT - read - written} width={STEP - 2} height={written} />
              </g>
            );
          })}
        </svg>
        <span className="from" aria-hidden="true">
          {utcDay(first.day)}
        </span>
        <span className="to" aria-hidden="true">
          {utcDay(last.day)}
        </span>
      </div>
    </figure>
  );
}
