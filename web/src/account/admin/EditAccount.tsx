/** An account's role, limits and balance, and whether it is disabled. */

import { type FormEvent, useState } from "react";
import { request } from "../../api/client";
import type { Account, Limits } from "../../api/types";
import { useTexts } from "../../i18n";
import { useSession } from "../../session";
import { Dialog } from "../Dialog";
import { LIMITS, LimitsFields, limitTexts, readLimits } from "../limits";
import { Check, Failure, Field, focusFirstError, Select } from "../parts";
import { useAction } from "../useAction";

interface Draft {
  role: Account["role"];
  disabled: boolean;
  limits: Limits;
  balance: number | null;
}

/** Only what differs is sent: the balance, above all, may have been spent from since the list was loaded. */
export function changes(account: Account, draft: Draft): Partial<Draft> {
  return {
    ...(draft.role !== account.role && { role: draft.role }),
    ...(draft.disabled !== account.disabled && { disabled: draft.disabled }),
    ...(LIMITS.some((name) => draft.limits[name] !== account.limits[name]) && { limits: draft.limits }),
    ...(draft.balance !== account.balance && { balance: draft.balance }),
  };
}

/** Null where the text is no amount. A balance may be below zero: the last reply of one may cost more than it had. */
export function readBalance(text: string): { value: number | null } | null {
  const trimmed = text.trim();
  if (trimmed === "") return { value: null };
  const value = Number(trimmed);
  return /^-?\d+(\.\d+)?(e-?\d+)?$/i.test(trimmed) && Math.abs(value) <= 1e12 ? { value } : null;
}

export function EditAccount({
  account,
  onSaved,
  onClose,
}: {
  account: Account;
  onSaved: (account: Account) => void;
  onClose: () => void;
}) {
  const t = useTexts();
  const { me } = useSession();
  const [role, setRole] = useState(account.role);
  const [disabled, setDisabled] = useState(account.disabled);
  const [limits, setLimits] = useState(limitTexts(account.limits));
  const [balance, setBalance] = useState(account.balance?.toString() ?? "");
  const [checked, setChecked] = useState(false);
  const { busy, failure, run } = useAction();
  const paid = me.currency !== null || account.balance !== null;
  const money = readBalance(balance);

  const submit = (event: FormEvent<HTMLFormElement>) => {
    event.preventDefault();
    setChecked(true);
    const read = readLimits(limits);
    if (read === null || money === null) return focusFirstError(event.currentTarget);
    const body = changes(account, { role, disabled, limits: read, balance: money.value });
    void run(async () =>
      onSaved(await request<Account>(`/api/admin/accounts/${account.id}`, { method: "PATCH", body })),
    );
  };

  return (
    <Dialog title={t.admin.editTitle(account.name)} onClose={onClose}>
      <form onSubmit={submit} noValidate>
        <Select label={t.admin.role} value={role} onChange={(event) => setRole(event.target.value as Account["role"])}>
          <option value="member">{t.admin.roles.member}</option>
          <option value="admin">{t.admin.roles.admin}</option>
        </Select>
        <Check label={t.admin.disable} checked={disabled} onChange={setDisabled} />
        <LimitsFields
          texts={limits}
          onChange={setLimits}
          hint={t.admin.limitsServer}
          currency={me.currency}
          checked={checked}
        />
        {paid && (
          <Field
            label={me.currency === null ? t.admin.balance : `${t.admin.balance} (${me.currency})`}
            hint={t.admin.balanceHint}
            inputMode="decimal"
            autoComplete="off"
            value={balance}
            error={checked && money === null ? t.admin.anyAmount : undefined}
            onChange={(event) => setBalance(event.target.value)}
          />
        )}
        <Failure error={failure} />
        <div className="buttons">
          <button type="button" onClick={onClose}>
            {t.cancel}
          </button>
          <button type="submit" className="primary" aria-busy={busy}>
            {t.save}
          </button>
        </div>
      </form>
    </Dialog>
  );
}
