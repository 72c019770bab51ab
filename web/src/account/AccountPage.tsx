/** Who I am, my password, my programs' keys, and what I have used. */

import { useMemo } from "react";
import { date, money } from "../format";
import { useTexts } from "../i18n";
import { useSession } from "../session";
import { Frame } from "./Frame";
import { KeysSection } from "./KeysSection";
import type { Key } from "./KeysTable";
import { LimitsList } from "./limits";
import { PasswordSection } from "./PasswordSection";
import { Failure, Section } from "./parts";
import { UsageView } from "./UsageView";
import { useAction } from "./useAction";
import { useLoad } from "./useLoad";

export default function AccountPage() {
  const t = useTexts().admin;
  const { me } = useSession();
  if (!me.one_person && me.account === null) return null; // on the way to the sign-in page
  return (
    <Frame title={t.myAccount}>
      {me.one_person ? (
        <>
          <p className="note">{t.onePerson}</p>
          <Section title={t.usage}>
            <UsageView path="/api/usage" groupings={["day", "model"]} />
          </Section>
        </>
      ) : (
        <OfPerson />
      )}
    </Frame>
  );
}

function OfPerson() {
  const t = useTexts().admin;
  const keys = useLoad<Key[]>("/api/keys");
  const names = useMemo(() => ({ keys: new Map(keys.data?.map(({ id, name }) => [id, name])) }), [keys.data]);
  return (
    <>
      <Person />
      <PasswordSection />
      <KeysSection keys={keys} />
      <Section title={t.usage}>
        <UsageView path="/api/usage" groupings={["day", "model", "key"]} names={names} />
      </Section>
    </>
  );
}

function Person() {
  const t = useTexts();
  const { me, signOut } = useSession();
  const { busy, failure, run } = useAction();
  const account = me.account;
  if (account === null) return null;
  const paid = me.currency !== null || account.balance !== null;
  return (
    <Section
      title={t.admin.whoIAm}
      aside={
        <button type="button" aria-busy={busy} onClick={() => void run(signOut)}>
          {t.signOut}
        </button>
      }
    >
      <Failure error={failure} />
      <dl className="facts">
        <dt>{t.admin.name}</dt>
        <dd>{account.name}</dd>
        <dt>{t.admin.role}</dt>
        <dd>{t.admin.roles[account.role]}</dd>
        <dt>{t.admin.since}</dt>
        <dd>{date(account.created)}</dd>
        <dt>{t.admin.limits}</dt>
        <dd>
          <LimitsList limits={account.limits} currency={me.currency} />
        </dd>
        {paid && (
          <>
            <dt>{t.admin.balance}</dt>
            <dd>{account.balance === null ? t.admin.balanceNone : money(account.balance, me.currency)}</dd>
          </>
        )}
      </dl>
    </Section>
  );
}
