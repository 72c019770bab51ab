/** My programs' keys. */

import { type FormEvent, useEffect, useRef, useState } from "react";
import { request } from "../api/client";
import { useTexts } from "../i18n";
import { useSession } from "../session";
import { CopyField } from "./copy";
import { Confirm, Dialog } from "./Dialog";
import { useAnnounce } from "./Frame";
import { type Key, KeysTable } from "./KeysTable";
import { LimitsFields, limitTexts, readLimits } from "./limits";
import { Failure, Field, focusFirstError, Section, Shown } from "./parts";
import { useAction } from "./useAction";
import type { Loaded } from "./useLoad";

const LONGEST_NAME = 200;

export function KeysSection({ keys }: { keys: Loaded<Key[]> }) {
  const t = useTexts().admin;
  const announce = useAnnounce();
  const heading = useRef<HTMLHeadingElement>(null);
  const [making, setMaking] = useState(false);
  const [revoking, setRevoking] = useState<Key | null>(null);

  const revoked = async (key: Key) => {
    setRevoking(null);
    announce(t.keyRevoked(key.name));
    await keys.reload();
    heading.current?.focus(); // the button that was pressed is gone
  };

  return (
    <Section
      title={t.keys}
      heading={heading}
      aside={
        <button type="button" onClick={() => setMaking(true)}>
          {t.keyNew}
        </button>
      }
    >
      <p className="soft">{t.keysHint}</p>
      <Shown of={keys}>
        {(list) =>
          list.length === 0 ? <p>{t.keysNone}</p> : <KeysTable keys={list} label={t.keys} onRevoke={setRevoking} />
        }
      </Shown>
      {making && <NewKey onMade={() => void keys.reload()} onClose={() => setMaking(false)} />}
      {revoking && (
        <Confirm
          title={t.revokeKey}
          text={t.revokeKeyHint(revoking.name)}
          verb={t.revoke}
          action={() => request(`/api/keys/${revoking.id}`, { method: "DELETE" })}
          onDone={() => void revoked(revoking)}
          onClose={() => setRevoking(null)}
        />
      )}
    </Section>
  );
}

function NewKey({ onMade, onClose }: { onMade: () => void; onClose: () => void }) {
  const t = useTexts();
  const { me } = useSession();
  const form = useRef<HTMLFormElement>(null);
  const [name, setName] = useState("");
  const [limits, setLimits] = useState(limitTexts());
  const [checked, setChecked] = useState(false);
  const [secret, setSecret] = useState<string | null>(null);
  const { busy, failure, run } = useAction();

  useEffect(() => form.current?.querySelector("input")?.focus(), []);

  const trimmed = name.trim();
  const wrongName = trimmed === "" || [...trimmed].length > LONGEST_NAME;

  const submit = async (event: FormEvent<HTMLFormElement>) => {
    event.preventDefault();
    setChecked(true);
    const read = readLimits(limits);
    if (wrongName || read === null) return focusFirstError(event.currentTarget);
    await run(async () => {
      const body = { name: trimmed, limits: read };
      setSecret((await request<{ secret: string }>("/api/keys", { method: "POST", body })).secret);
      onMade();
    });
  };

  if (secret !== null) return <Secret name={trimmed} secret={secret} onClose={onClose} />;
  return (
    <Dialog title={t.admin.keyNew} onClose={onClose}>
      <form onSubmit={submit} noValidate ref={form}>
        <Field
          label={t.admin.keyName}
          hint={t.admin.keyNameHint}
          autoComplete="off"
          value={name}
          error={checked && wrongName ? t.admin.keyNameLength : undefined}
          onChange={(event) => setName(event.target.value)}
        />
        <LimitsFields
          texts={limits}
          onChange={setLimits}
          hint={t.admin.limitsKey}
          currency={me.currency}
          checked={checked}
        />
        <Failure error={failure} />
        <div className="buttons">
          <button type="button" onClick={onClose}>
            {t.cancel}
          </button>
          <button type="submit" className="primary" aria-busy={busy}>
            {t.admin.keyMake}
          </button>
        </div>
      </form>
    </Dialog>
  );
}

/** A dialog of its own, so that its title is told. */
function Secret({ name, secret, onClose }: { name: string; secret: string; onClose: () => void }) {
  const t = useTexts();
  return (
    <Dialog title={`${t.admin.keyMade}: ${name}`} onClose={onClose}>
      <CopyField label={t.admin.keySecret} hint={t.admin.keySecretHint} value={secret} />
      <div className="buttons">
        <button type="button" onClick={onClose}>
          {t.close}
        </button>
      </div>
    </Dialog>
  );
}
