/** Everybody's accounts, keys and usage, the models, and what the server is doing now. */

import { useSearchParams } from "wouter";
import type { Me } from "../api/types";
import { useTexts } from "../i18n";
import { useSession } from "../session";
import { AllKeysTab } from "./admin/AllKeysTab";
import { AllUsageTab } from "./admin/AllUsageTab";
import { LoadTab } from "./admin/LoadTab";
import { ModelsTab } from "./admin/ModelsTab";
import { UsersTab } from "./admin/UsersTab";
import { Frame } from "./Frame";
import { Tabs } from "./Tabs";

const TABS = { users: UsersTab, keys: AllKeysTab, usage: AllUsageTab, models: ModelsTab, load: LoadTab };
type Tab = keyof typeof TABS;

const WITH_PEOPLE: readonly Tab[] = ["users", "keys", "usage", "models", "load"];
const ALONE: readonly Tab[] = ["load", "models", "usage"];

export default function AdminPage() {
  const t = useTexts().admin;
  const { me } = useSession();
  if (!me.one_person && me.account === null) return null; // on the way to the sign-in page
  return <Frame title={t.administration}>{me.role === "admin" ? <AdminTabs me={me} /> : <p>{t.notAdmin}</p>}</Frame>;
}

/** The tab stands in the address, so that it is there again after a reload. */
function AdminTabs({ me }: { me: Me }) {
  const t = useTexts().admin;
  const [search, setSearch] = useSearchParams();
  const offered = me.one_person ? ALONE : WITH_PEOPLE;
  const tab = offered.find((name) => name === search.get("tab")) ?? offered[0] ?? "load";
  const Content = TABS[tab];
  return (
    <Tabs
      label={t.administration}
      tabs={offered.map((name) => ({ name, text: t.tabs[name] }))}
      selected={tab}
      onSelect={(name) => setSearch({ tab: name }, { replace: true })}
    >
      <Content />
    </Tabs>
  );
}
