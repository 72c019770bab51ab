/** Links that were made and not used yet. */

import { useRef, useState } from "react";
import { request } from "../../api/client";
import type { Account } from "../../api/types";
import { dateTime } from "../../format";
import { useTexts } from "../../i18n";
import { Confirm } from "../Dialog";
import { useAnnounce } from "../Frame";
import { Section, Shown, Table } from "../parts";
import type { Loaded } from "../useLoad";

export interface Invitation {
  id: string;
  role: Account["role"];
  /** Whose password it sets; null makes a new account. */
  account: string | null;
  created: number;
  expires: number;
}

export function Invitations({
  invitations,
  accounts,
}: {
  invitations: Loaded<Invitation[]>;
  accounts: readonly Account[];
}) {
  const t = useTexts().admin;
  const announce = useAnnounce();
  const heading = useRef<HTMLHeadingElement>(null);
  const [revoking, setRevoking] = useState<Invitation | null>(null);

  const purpose = ({ account }: Invitation) => {
    if (account === null) return t.newAccount;
    return t.resetOf(accounts.find(({ id }) => id === account)?.name ?? t.someAccount);
  };
  const revoked = async () => {
    setRevoking(null);
    announce(t.invitationRevoked);
    await invitations.reload();
    heading.current?.focus(); // the button that was pressed is gone
  };

  return (
    <Section title={t.pending} heading={heading}>
      <Shown of={invitations}>
        {(list) =>
          list.length === 0 ? (
            <p className="soft">{t.pendingNone}</p>
          ) : (
            <Table label={t.pending}>
              <thead>
                <tr>
                  <th scope="col">{t.invitedFor}</th>
                  <th scope="col">{t.role}</th>
                  <th scope="col">{t.made}</th>
                  <th scope="col">{t.expires}</th>
                  <th scope="col" className="actions">
                    {t.actions}
                  </th>
                </tr>
              </thead>
              <tbody>
                {list.map((invitation) => (
                  <tr key={invitation.id}>
                    <th scope="row">{purpose(invitation)}</th>
                    <td>{t.roles[invitation.role]}</td>
                    <td>{dateTime(invitation.created)}</td>
                    <td>{dateTime(invitation.expires)}</td>
                    <td className="actions">
                      <button
                        type="button"
                        className="danger"
                        aria-label={t.revokeNamed(`${purpose(invitation)}, ${dateTime(invitation.created)}`)}
                        onClick={() => setRevoking(invitation)}
                      >
                        {t.revoke}
                      </button>
                    </td>
                  </tr>
                ))}
              </tbody>
            </Table>
          )
        }
      </Shown>
      {revoking && (
        <Confirm
          title={t.revokeInvitation}
          text={t.revokeInvitationHint}
          verb={t.revoke}
          action={() => request(`/api/invitations/${revoking.id}`, { method: "DELETE" })}
          onDone={() => void revoked()}
          onClose={() => setRevoking(null)}
        />
      )}
    </Section>
  );
}
