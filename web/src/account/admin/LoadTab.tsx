/** What the server is doing now, and did in the last two minutes. */

import { useEffect, useState } from "react";
import type { Model } from "../../api/types";
import { bytes, clock, duration, number } from "../../format";
import { useTexts } from "../../i18n";
import { Section, Shown, Table } from "../parts";
import { useLoad } from "../useLoad";
import { LiveChart, type Sample } from "./LiveChart";

/** tokens_per_second: of all replies together. cache_used, cache_total: tokens; null behind an upstream. */
interface ModelLoad {
  name: string;
  state: Model["state"];
  running: number;
  cache_used: number | null;
  cache_total: number | null;
  tokens_per_second: number;
}

interface Load {
  running: number;
  waiting: number;
  slots: number;
  queue: number;
  uptime_seconds: number;
  memory_bytes: number;
  models: ModelLoad[];
}

const EVERY = 2000; // milliseconds
const WINDOW = 120_000;

export function LoadTab() {
  const t = useTexts().admin;
  const load = useLoad<Load>("/api/admin/load", EVERY);
  const { data, at } = load;
  const [samples, setSamples] = useState<Sample[]>([]);

  useEffect(() => {
    if (data === null) return;
    const sample = { at, running: data.running, speed: speed(data) };
    setSamples((old) => [...old.filter((one) => one.at > at - WINDOW), sample]);
  }, [data, at]);

  return (
    <Section title={t.tabs.load}>
      {load.failure !== null && data !== null && <p className="soft">{t.stale(clock(at))}</p>}
      <Shown of={load}>
        {(now) => (
          <>
            <Figures load={now} />
            <div className="charts">
              <LiveChart title={t.speed} samples={samples} of="speed" span={WINDOW} />
              <LiveChart title={t.running} samples={samples} of="running" span={WINDOW} />
            </div>
            <ModelsTable models={now.models} />
          </>
        )}
      </Shown>
    </Section>
  );
}

function speed(load: Load): number {
  return load.models.reduce((sum, model) => sum + model.tokens_per_second, 0);
}

function Figures({ load }: { load: Load }) {
  const t = useTexts().admin;
  const figures = [
    [t.running, number(load.running), t.ofSlots(number(load.slots))],
    [t.waiting, number(load.waiting), t.ofQueue(number(load.queue))],
    [t.speed, number(speed(load), 1), ""],
    [t.memory, bytes(load.memory_bytes), ""],
    [t.uptime, duration(load.uptime_seconds), ""],
  ] as const;
  return (
    <dl className="figures">
      {figures.map(([name, value, beside]) => (
        <div key={name}>
          <dt>{name}</dt>
          <dd>
            {value} {beside && <span className="soft">{beside}</span>}
          </dd>
        </div>
      ))}
    </dl>
  );
}

function ModelsTable({ models }: { models: ModelLoad[] }) {
  const t = useTexts().admin;
  return (
    <Table label={t.models} figures>
      <thead>
        <tr>
          <th scope="col">{t.model}</th>
          <th scope="col" className="text">
            {t.state}
          </th>
          <th scope="col">{t.running}</th>
          <th scope="col">{t.speed}</th>
          <th scope="col" className="text">
            {t.cache}
          </th>
        </tr>
      </thead>
      <tbody>
        {models.map((model) => (
          <tr key={model.name}>
            <th scope="row">{model.name}</th>
            <td className="text">{t.modelStates[model.state]}</td>
            <td>{number(model.running)}</td>
            <td>{number(model.tokens_per_second, 1)}</td>
            <td className="text">
              <Cache used={model.cache_used} total={model.cache_total} />
            </td>
          </tr>
        ))}
      </tbody>
    </Table>
  );
}

function Cache({ used, total }: { used: number | null; total: number | null }) {
  const t = useTexts().admin;
  if (used === null || total === null) return <span className="soft">{t.unknown}</span>;
  return (
    <div className="progress">
      <meter aria-label={t.cache} min={0} max={total} value={used} />
      <span>{t.progressOf(number(used), t.contextTokens(total))}</span>
    </div>
  );
}
