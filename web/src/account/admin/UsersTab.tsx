/** All accounts, and the invitations that are open. */

import { useRef, useState } from "react";
import type { Account } from "../../api/types";
import { date, money } from "../../format";
import { useTexts } from "../../i18n";
import { useSession } from "../../session";
import { useAnnounce } from "../Frame";
import { LimitsList } from "../limits";
import { Section, Shown, Table } from "../parts";
import { useLoad } from "../useLoad";
import { EditAccount } from "./EditAccount";
import { type Invitation, Invitations } from "./Invitations";
import { InviteDialog, ResetDialog } from "./LinkDialogs";

type Open = { kind: "invite" } | { kind: "edit" | "reset"; account: Account };

export function UsersTab() {
  const t = useTexts().admin;
  const { me, refresh } = useSession();
  const announce = useAnnounce();
  const accounts = useLoad<Account[]>("/api/admin/accounts");
  const invitations = useLoad<Invitation[]>("/api/invitations");
  const [open, setOpen] = useState<Open | null>(null);
  const heading = useRef<HTMLHeadingElement>(null);
  const close = () => setOpen(null);

  const saved = async (account: Account) => {
    close();
    announce(t.saved(account.name));
    await accounts.reload();
    if (account.id === me.account?.id) await refresh();
  };

  return (
    <>
      <Section
        title={t.users}
        heading={heading}
        aside={
          <button type="button" className="primary" onClick={() => setOpen({ kind: "invite" })}>
            {t.invite}
          </button>
        }
      >
        <Shown of={accounts}>
          {(list) => (
            <AccountsTable
              accounts={list}
              onEdit={(account) => setOpen({ kind: "edit", account })}
              onReset={(account) => setOpen({ kind: "reset", account })}
            />
          )}
        </Shown>
      </Section>
      <Invitations invitations={invitations} accounts={accounts.data ?? []} />
      {open?.kind === "invite" && <InviteDialog onMade={() => void invitations.reload()} onClose={close} />}
      {open?.kind === "reset" && (
        <ResetDialog account={open.account} onMade={() => void invitations.reload()} onClose={close} />
      )}
      {open?.kind === "edit" && <EditAccount account={open.account} onSaved={saved} onClose={close} />}
    </>
  );
}

function AccountsTable({
  accounts,
  onEdit,
  onReset,
}: {
  accounts: Account[];
  onEdit: (account: Account) => void;
  onReset: (account: Account) => void;
}) {
  const t = useTexts().admin;
  const { me } = useSession();
  const paid = me.currency !== null || accounts.some((account) => account.balance !== null);
  return (
    <Table label={t.users}>
      <thead>
        <tr>
          <th scope="col">{t.name}</th>
          <th scope="col">{t.role}</th>
          <th scope="col">{t.state}</th>
          <th scope="col">{t.limits}</th>
          {paid && <th scope="col">{t.balance}</th>}
          <th scope="col">{t.since}</th>
          <th scope="col" className="actions">
            {t.actions}
          </th>
        </tr>
      </thead>
      <tbody>
        {accounts.map((account) => {
          const name = account.name;
          return (
            <tr key={account.id}>
              <th scope="row">
                {name} {account.id === me.account?.id && <span className="badge">{t.you}</span>}
              </th>
              <td>{t.roles[account.role]}</td>
              <td>{account.disabled ? <span className="bad">{t.disabled}</span> : t.active}</td>
              <td>
                <LimitsList limits={account.limits} currency={me.currency} />
              </td>
              {paid && <td>{account.balance === null ? "–" : money(account.balance, me.currency)}</td>}
              <td>{date(account.created)}</td>
              <td className="actions">
                <button type="button" aria-label={t.editNamed(name)} onClick={() => onEdit(account)}>
                  {t.edit}
                </button>
                <button type="button" aria-label={t.resetNamed(name)} onClick={() => onReset(account)}>
                  {t.reset}
                </button>
              </td>
            </tr>
          );
        })}
      </tbody>
    </Table>
  );
}
