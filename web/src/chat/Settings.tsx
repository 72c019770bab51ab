/** What holds for every conversation, and the keyboard's shortcuts. */

import { useRef, useState } from "react";
import { useLocation } from "wouter";
import { LANGUAGES, type Language, setLanguage, useLanguage, useTexts } from "../i18n";
import { Modal } from "../Modal";
import { setTheme, type Theme, theme } from "../theme";
import { showToast } from "../toast";
import { importConversation } from "./list";
import { MOST_TOKENS, preferences, usePreferences } from "./preferences";

export function Settings({ onClose }: { onClose: () => void }) {
  const t = useTexts();
  const language = useLanguage();
  const { instructions, temperature, maxTokens } = usePreferences();
  const [appearance, setAppearance] = useState(theme());
  const number = (value: number) => (Number.isNaN(value) ? null : value);
  return (
    <Modal title={t.settings} onClose={onClose}>
      <div className="fields">
        <label>
          <span>{t.language}</span>
          <select value={language} onChange={(event) => setLanguage(event.target.value as Language)}>
            {Object.entries(LANGUAGES).map(([key, { name, tag }]) => (
              <option key={key} value={key} lang={tag}>
                {name}
              </option>
            ))}
          </select>
        </label>
        <label>
          <span>{t.theme}</span>
          <select
            value={appearance}
            onChange={(event) => {
              setTheme(event.target.value as Theme);
              setAppearance(event.target.value as Theme);
            }}
          >
            <option value="system">{t.themeSystem}</option>
            <option value="light">{t.themeLight}</option>
            <option value="dark">{t.themeDark}</option>
          </select>
        </label>
        <label>
          <span>{t.instructions}</span>
          <textarea
            rows={4}
            value={instructions}
            onChange={(event) => preferences.setState({ instructions: event.target.value })}
          />
          <small>{t.instructionsHint}</small>
        </label>
        <label>
          <span>{t.temperature}</span>
          <input
            type="number"
            min={0}
            max={2}
            step={0.1}
            value={temperature ?? ""}
            onChange={(event) => {
              const value = number(event.target.valueAsNumber);
              if (value === null || (value >= 0 && value <= 2)) preferences.setState({ temperature: value });
            }}
          />
          <small>{t.temperatureHint}</small>
        </label>
        <label>
          <span>{t.maxTokens}</span>
          <input
            type="number"
            min={1}
            step={1}
            value={maxTokens ?? ""}
            onChange={(event) => {
              const value = number(event.target.valueAsNumber);
              if (value === null || value >= 1)
                preferences.setState({ maxTokens: value && Math.min(Math.round(value), MOST_TOKENS) });
            }}
          />
          <small>{t.temperatureHint}</small>
        </label>
        <Import onDone={onClose} />
      </div>
    </Modal>
  );
}

function Import({ onDone }: { onDone: () => void }) {
  const t = useTexts();
  const input = useRef<HTMLInputElement>(null);
  const [, navigate] = useLocation();
  const take = async (file: File) => {
    try {
      const made = await importConversation(await parsed(file, t.importNotJson));
      onDone();
      navigate(`/c/${made.id}`);
    } catch (error) {
      showToast(t.importFailed(error instanceof Error ? error.message : String(error)));
    }
  };
  return (
    <div>
      <input
        ref={input}
        type="file"
        accept=".json,application/json"
        hidden
        onChange={(event) => {
          const file = event.target.files?.[0];
          event.target.value = "";
          if (file) void take(file);
        }}
      />
      <button type="button" onClick={() => input.current?.click()}>
        {t.import}
      </button>
    </div>
  );
}

async function parsed(file: File, problem: string): Promise<unknown> {
  try {
    return JSON.parse(await file.text());
  } catch {
    throw new Error(problem);
  }
}

export function Shortcuts({ onClose }: { onClose: () => void }) {
  const t = useTexts();
  const s = t.shortcuts;
  const control = /Mac|iPhone|iPad/.test(navigator.userAgent) ? "⌘" : "Ctrl";
  const rows: [string, string][] = [
    ["Enter", s.send],
    ["Shift Enter", s.line],
    ["Esc", s.stop],
    ["↑", s.editLast],
    [`${control} Shift O`, s.newChat],
    [`${control} K`, s.search],
    [`${control} Shift S`, s.sidebar],
    [`${control} /`, s.help],
  ];
  return (
    <Modal title={t.keyboard} onClose={onClose}>
      <table className="shortcuts">
        <tbody>
          {rows.map(([keys, text]) => (
            <tr key={keys}>
              <th scope="row">
                {keys.split(" ").map((key) => (
                  <kbd key={key}>{key}</kbd>
                ))}
              </th>
              <td>{text}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </Modal>
  );
}
