/** Links that let somebody in: made, and shown this once. */

import { type ReactNode, useState } from "react";
import { request } from "../../api/client";
import type { Account } from "../../api/types";
import { dateTime } from "../../format";
import { useTexts } from "../../i18n";
import { CopyField } from "../copy";
import { Dialog } from "../Dialog";
import { writeLink } from "../invitation";
import { Failure, Select } from "../parts";
import { useAction } from "../useAction";
import type { Invitation } from "./Invitations";

interface Created {
  invitation: Invitation;
  token: string;
}

export function InviteDialog({ onMade, onClose }: { onMade: () => void; onClose: () => void }) {
  const t = useTexts().admin;
  const [role, setRole] = useState<Account["role"]>("member");
  return (
    <LinkDialog title={t.invite} path="/api/invitations" body={{ role }} onMade={onMade} onClose={onClose}>
      <p>{t.inviteHint}</p>
      <Select label={t.role} value={role} onChange={(event) => setRole(event.target.value as Account["role"])}>
        <option value="member">{t.roles.member}</option>
        <option value="admin">{t.roles.admin}</option>
      </Select>
    </LinkDialog>
  );
}

export function ResetDialog({
  account,
  onMade,
  onClose,
}: {
  account: Account;
  onMade: () => void;
  onClose: () => void;
}) {
  const t = useTexts().admin;
  return (
    <LinkDialog
      title={t.resetMakeTitle(account.name)}
      path={`/api/admin/accounts/${account.id}/reset`}
      onMade={onMade}
      onClose={onClose}
    >
      <p>{t.resetMakeHint}</p>
    </LinkDialog>
  );
}

/** children: what there is to say or choose before the link is made. */
function LinkDialog({
  title,
  path,
  body,
  onMade,
  onClose,
  children,
}: {
  title: string;
  path: string;
  body?: unknown;
  onMade: () => void;
  onClose: () => void;
  children: ReactNode;
}) {
  const t = useTexts();
  const [created, setCreated] = useState<Created | null>(null);
  const { busy, failure, run } = useAction();

  const make = () =>
    run(async () => {
      setCreated(await request<Created>(path, { method: "POST", body }));
      onMade();
    });

  if (created === null) {
    return (
      <Dialog key="make" title={title} onClose={onClose}>
        {children}
        <Failure error={failure} />
        <div className="buttons">
          <button type="button" onClick={onClose}>
            {t.cancel}
          </button>
          <button type="button" className="primary" aria-busy={busy} onClick={make}>
            {t.admin.inviteMake}
          </button>
        </div>
      </Dialog>
    );
  }
  const { invitation, token } = created;
  const link = writeLink(window.location.origin, { token, reset: invitation.account !== null });
  return (
    <Dialog key="made" title={title} onClose={onClose}>
      <CopyField label={t.admin.link} hint={t.admin.linkSecret} value={link} />
      <p>{t.admin.linkUntil(dateTime(invitation.expires))}</p>
      <div className="buttons">
        <button type="button" onClick={onClose}>
          {t.close}
        </button>
      </div>
    </Dialog>
  );
}
