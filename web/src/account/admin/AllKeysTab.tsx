/** The keys of all accounts. */

import { useRef, useState } from "react";
import { request } from "../../api/client";
import { useTexts } from "../../i18n";
import { Confirm } from "../Dialog";
import { useAnnounce } from "../Frame";
import { type Key, KeysTable } from "../KeysTable";
import { Section, Shown } from "../parts";
import { useLoad } from "../useLoad";

interface OwnedKey extends Key {
  account: string;
  account_name: string;
}

export function AllKeysTab() {
  const t = useTexts().admin;
  const announce = useAnnounce();
  const keys = useLoad<OwnedKey[]>("/api/admin/keys");
  const heading = useRef<HTMLHeadingElement>(null);
  const [revoking, setRevoking] = useState<OwnedKey | null>(null);

  const revoked = async (key: Key) => {
    setRevoking(null);
    announce(t.keyRevoked(key.name));
    await keys.reload();
    heading.current?.focus(); // the button that was pressed is gone
  };

  return (
    <Section title={t.keys} heading={heading}>
      <Shown of={keys}>
        {(list) =>
          list.length === 0 ? (
            <p>{t.keysNone}</p>
          ) : (
            <KeysTable keys={list} label={t.keys} owner={(key) => key.account_name} onRevoke={setRevoking} />
          )
        }
      </Shown>
      {revoking && (
        <Confirm
          title={t.revokeKey}
          text={t.revokeKeyHint(revoking.name)}
          verb={t.revoke}
          action={() => request(`/api/admin/keys/${revoking.id}`, { method: "DELETE" })}
          onDone={() => void revoked(revoking)}
          onClose={() => setRevoking(null)}
        />
      )}
    </Section>
  );
}
