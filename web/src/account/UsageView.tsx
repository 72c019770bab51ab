/** What was used: a chart of the days, and a table with every figure. */

import { useMemo, useState } from "react";
import { money, number, utcDay } from "../format";
import { useTexts } from "../i18n";
import { useSession } from "../session";
import { Select, Shown, Table } from "./parts";
import { UsageChart } from "./UsageChart";
import { type Group, type Grouping, group, type Sums, sum, type UsageRow } from "./usage";
import { useLoad } from "./useLoad";

const PERIODS = [7, 30, 90, 366];
const AT_FIRST = 30; // rows; a year of days and models is a thousand

/** Names of what the rows have only an id of. */
export interface Names {
  accounts?: ReadonlyMap<string, string>;
  keys?: ReadonlyMap<string, string>;
}

export function UsageView({
  path,
  groupings,
  names = {},
}: {
  path: string;
  groupings: readonly Grouping[];
  names?: Names;
}) {
  const t = useTexts().admin;
  const [days, setDays] = useState(30);
  const [by, setBy] = useState<Grouping>("day");
  const rows = useLoad<UsageRow[]>(`${path}?days=${days}`);
  return (
    <>
      <div className="controls">
        <Select label={t.period} value={days} onChange={(event) => setDays(Number(event.target.value))}>
          {PERIODS.map((period) => (
            <option key={period} value={period}>
              {t.lastDays(period)}
            </option>
          ))}
        </Select>
        <Select label={t.groupBy} value={by} onChange={(event) => setBy(event.target.value as Grouping)}>
          {groupings.map((grouping) => (
            <option key={grouping} value={grouping}>
              {t.groups[grouping]}
            </option>
          ))}
        </Select>
      </div>
      <Shown of={rows}>
        {(data) =>
          data.length === 0 ? (
            <p>{t.usageNone}</p>
          ) : (
            <>
              <UsageChart rows={data} days={days} />
              <UsageTable key={`${by} ${days}`} rows={data} by={by} names={names} />
            </>
          )
        }
      </Shown>
    </>
  );
}

function UsageTable({ rows, by, names }: { rows: UsageRow[]; by: Grouping; names: Names }) {
  const t = useTexts().admin;
  const { me } = useSession();
  const [all, setAll] = useState(false);
  const groups = useMemo(() => group(rows, by), [rows, by]);
  const total = useMemo(() => sum(rows), [rows]);
  const paid = me.currency !== null || total.cost > 0;
  const shown = all ? groups : groups.slice(0, AT_FIRST);

  const name = ({ row }: Group) => {
    if (by === "day") return utcDay(row.day);
    if (by === "model") return row.model;
    if (by === "account") return names.accounts?.get(row.account) ?? row.account;
    return row.key === null ? t.page : (names.keys?.get(row.key) ?? row.key);
  };
  const figures = (sums: Sums) => (
    <>
      <td>{number(sums.requests)}</td>
      <td>{number(sums.prompt_tokens)}</td>
      <td>{number(sums.cached_tokens)}</td>
      <td>{number(sums.completion_tokens)}</td>
      <td>{number(sums.reasoning_tokens)}</td>
      {paid && <td>{money(sums.cost, me.currency)}</td>}
    </>
  );

  return (
    <>
      <Table label={t.usage} figures>
        <thead>
          <tr>
            <th scope="col">{by === "day" ? t.day : t.groups[by]}</th>
            {by === "day" && (
              <th scope="col" className="text">
                {t.model}
              </th>
            )}
            <th scope="col">{t.requests}</th>
            <th scope="col">{t.input}</th>
            <th scope="col">{t.cached}</th>
            <th scope="col">{t.output}</th>
            <th scope="col">{t.thought}</th>
            {paid && <th scope="col">{t.cost}</th>}
          </tr>
        </thead>
        <tbody>
          {shown.map((found) => (
            <tr key={found.id}>
              <th scope="row">{name(found)}</th>
              {by === "day" && <td className="text">{found.row.model}</td>}
              {figures(found.sums)}
            </tr>
          ))}
        </tbody>
        <tfoot>
          <tr>
            <th scope="row">{t.total}</th>
            {by === "day" && <td />}
            {figures(total)}
          </tr>
        </tfoot>
      </Table>
      {shown.length < groups.length && (
        <button type="button" onClick={() => setAll(true)}>
          {t.showAll(groups.length)}
        </button>
      )}
    </>
  );
}
