/** How programs use this server: addresses, key, models, and examples that can be copied as they are. */

import { Link } from "wouter";
import type { Model } from "../api/types";
import { useTexts } from "../i18n";
import { useSession } from "../session";
import { CodeBlock, CopyButton } from "./copy";
import { examples } from "./examples";
import { Frame } from "./Frame";
import { Section, Shown, Table } from "./parts";
import { useLoad } from "./useLoad";

export default function ProgramsPage() {
  const t = useTexts().admin;
  const { me } = useSession();
  const models = useLoad<Model[]>("/api/models");
  if (!me.one_person && me.account === null) return null; // on the way to the sign-in page
  return (
    <Frame title={t.programs}>
      <p>{t.programsHint}</p>
      <Section title={t.addresses}>
        <Addresses base={window.location.origin} />
      </Section>
      <Section title={t.models}>
        <Shown of={models}>{(list) => <ModelNames models={list} />}</Shown>
      </Section>
      <Shown of={models}>{(list) => <Examples model={list[0]?.name ?? "default"} />}</Shown>
      <Section title={t.thinkingTitle}>
        <Thinking />
      </Section>
      <p>
        <a href="/openapi.json">{t.everything}: /openapi.json</a>
      </p>
    </Frame>
  );
}

function Addresses({ base }: { base: string }) {
  const t = useTexts().admin;
  const { me } = useSession();
  const addresses = [
    [t.baseOpenAI, `${base}/v1`],
    [t.baseDeepSeek, base],
    [t.baseAnthropic, base],
  ] as const;
  return (
    <dl className="facts">
      {addresses.map(([name, address]) => (
        <div key={name}>
          <dt>{name}</dt>
          <dd className="address">
            <code id={name}>{address}</code>
            <CopyButton what={name} text={address} from={() => document.getElementById(name)} />
          </dd>
        </div>
      ))}
      <div>
        <dt>{t.apiKey}</dt>
        <dd>
          {me.one_person ? (
            t.apiKeyNone
          ) : (
            <>
              <Link href="/account">{t.apiKeyMake}</Link>
              <p className="soft">{t.apiKeyShown}</p>
            </>
          )}
        </dd>
      </div>
    </dl>
  );
}

function ModelNames({ models }: { models: Model[] }) {
  const t = useTexts().admin;
  return (
    <>
      <ul>
        {models.map(({ name, default: isDefault }) => (
          <li key={name}>
            <code>{name}</code> {isDefault && <span className="badge">{t.defaultModel}</span>}
          </li>
        ))}
      </ul>
      {models[0] && <p className="soft">{t.modelsHint(models[0].name)}</p>}
      <p className="soft">{t.modelsAlso}</p>
    </>
  );
}

function Examples({ model }: { model: string }) {
  const t = useTexts().admin;
  const { me } = useSession();
  const key = me.one_person ? null : "mk-...";
  const code = examples({ base: window.location.origin, model, key, question: t.question });
  return (
    <Section title={t.examples}>
      <CodeBlock title={t.shell} code={code.shell} />
      <CodeBlock title={t.pythonOpenAI} code={code.openai} />
      <CodeBlock title={t.pythonAnthropic} code={code.anthropic} />
      <CodeBlock title={t.environment} code={code.environment} />
    </Section>
  );
}

const THINKING = [
  ["off", '"thinking": {"type": "disabled"}'],
  ["budget", '"thinking": {"type": "enabled", "budget_tokens": 500}'],
  ["effort", '"reasoning_effort": "low"'],
  ["on", '"thinking": {"type": "enabled"}'],
  ["name", '"model": "…-chat"'],
] as const;

function Thinking() {
  const t = useTexts().admin;
  return (
    <>
      <p>{t.thinkingHint}</p>
      <Table label={t.thinkingTitle}>
        <thead>
          <tr>
            <th scope="col">{t.parameter}</th>
            <th scope="col">{t.meaning}</th>
          </tr>
        </thead>
        <tbody>
          {THINKING.map(([name, parameter]) => (
            <tr key={name}>
              <th scope="row">
                <code>{parameter}</code>
              </th>
              <td>{t.thinkingRows[name]}</td>
            </tr>
          ))}
        </tbody>
      </Table>
    </>
  );
}
