/** Keys, one's own or everybody's. Revoked ones are kept out of the way. */

import { useState } from "react";
import type { Limits } from "../api/types";
import { date, dateTime } from "../format";
import { useTexts } from "../i18n";
import { useSession } from "../session";
import { LimitsList } from "./limits";
import { Check, Table } from "./parts";

export interface Key {
  id: string;
  name: string;
  prefix: string;
  limits: Limits;
  created: number;
  last_used: number | null;
  revoked: number | null;
}

/** owner: the name of a key's account, where they are several people's. */
export function KeysTable<K extends Key>({
  keys,
  label,
  owner,
  onRevoke,
}: {
  keys: readonly K[];
  label: string;
  owner?: (key: K) => string;
  onRevoke: (key: K) => void;
}) {
  const t = useTexts().admin;
  const { me } = useSession();
  const [all, setAll] = useState(false);
  const revoked = keys.filter((key) => key.revoked !== null).length;
  const shown = all ? keys : keys.filter((key) => key.revoked === null);
  return (
    <>
      {shown.length > 0 && (
        <Table label={label}>
          <thead>
            <tr>
              <th scope="col">{t.keyColumn}</th>
              {owner && <th scope="col">{t.account}</th>}
              <th scope="col">{t.keyBegins}</th>
              <th scope="col">{t.limits}</th>
              <th scope="col">{t.made}</th>
              <th scope="col">{t.lastUsed}</th>
              <th scope="col" className="actions">
                {t.actions}
              </th>
            </tr>
          </thead>
          <tbody>
            {shown.map((key) => (
              <tr key={key.id}>
                <th scope="row">{key.name}</th>
                {owner && <td>{owner(key)}</td>}
                <td>
                  <code>{key.prefix}…</code>
                </td>
                <td>
                  <LimitsList limits={key.limits} currency={me.currency} />
                </td>
                <td>{date(key.created)}</td>
                <td>{key.last_used === null ? t.never : dateTime(key.last_used)}</td>
                <td className="actions">
                  {key.revoked === null ? (
                    <button
                      type="button"
                      className="danger"
                      aria-label={t.revokeNamed(key.name)}
                      onClick={() => onRevoke(key)}
                    >
                      {t.revoke}
                    </button>
                  ) : (
                    <span className="soft">{t.revokedOn(date(key.revoked))}</span>
                  )}
                </td>
              </tr>
            ))}
          </tbody>
        </Table>
      )}
      {shown.length === 0 && !all && <p>{t.keysNone}</p>}
      {revoked > 0 && <Check label={t.revokedShow(revoked)} checked={all} onChange={setAll} />}
    </>
  );
}
