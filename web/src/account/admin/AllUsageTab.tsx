/** What everybody used. */

import { useMemo } from "react";
import type { Account } from "../../api/types";
import { useTexts } from "../../i18n";
import { useSession } from "../../session";
import { Section } from "../parts";
import { UsageView } from "../UsageView";
import { useLoad } from "../useLoad";

export function AllUsageTab() {
  const t = useTexts().admin;
  const { me } = useSession();
  return (
    <Section title={t.usage}>
      {me.one_person ? <UsageView path="/api/admin/usage" groupings={["day", "model"]} /> : <OfPeople />}
    </Section>
  );
}

function OfPeople() {
  const { data } = useLoad<Account[]>("/api/admin/accounts"); // without them, ids stand in for names
  const accounts = useMemo(() => new Map(data?.map(({ id, name }) => [id, name])), [data]);
  return <UsageView path="/api/admin/usage" groupings={["day", "account", "model"]} names={{ accounts }} />;
}
