/** The models: what they are, and how far their loading is. */

import type { Model, Progress } from "../../api/types";
import { bytes, languageName, number } from "../../format";
import { useTexts } from "../../i18n";
import { Section, Shown, Table } from "../parts";
import { useLoad } from "../useLoad";

const EVERY = 2000; // milliseconds

export function ModelsTab() {
  const t = useTexts().admin;
  const models = useLoad<Model[]>("/api/models", EVERY);
  return (
    <Section title={t.models}>
      <Shown of={models}>
        {(list) => (
          <Table label={t.models}>
            <thead>
              <tr>
                <th scope="col">{t.model}</th>
                <th scope="col">{t.state}</th>
                <th scope="col">{t.context}</th>
                <th scope="col">{t.thinks}</th>
                <th scope="col">{t.languages}</th>
                <th scope="col">{t.licence}</th>
              </tr>
            </thead>
            <tbody>
              {list.map((model) => (
                <ModelRow key={model.name} model={model} />
              ))}
            </tbody>
          </Table>
        )}
      </Shown>
    </Section>
  );
}

function ModelRow({ model }: { model: Model }) {
  const t = useTexts().admin;
  const unknown = <span className="soft">{t.unknown}</span>;
  return (
    <tr>
      <th scope="row">
        {model.name} {model.default && <span className="badge">{t.defaultModel}</span>}
        {model.description && <div className="soft">{model.description}</div>}
      </th>
      <td>
        <span className={{ ready: "good", loading: "", unreachable: "bad" }[model.state]}>
          {t.modelStates[model.state]}
        </span>
        {model.progress && <LoadProgress progress={model.progress} />}
      </td>
      <td>{model.context_length === null ? unknown : t.contextTokens(model.context_length)}</td>
      <td>{model.thinks === null ? unknown : (t.thinksHow[model.thinks] ?? model.thinks)}</td>
      <td>{model.languages === null ? unknown : model.languages.map(languageName).join(", ")}</td>
      <td>{model.licence ?? unknown}</td>
    </tr>
  );
}

/** Bytes of a download, weights of a load. */
function LoadProgress({ progress: { step, done, total } }: { progress: Progress }) {
  const t = useTexts().admin;
  const show = step === "download" ? bytes : number;
  const name = step === "download" ? t.progressDownload : t.progressLoad;
  return (
    <div className="progress">
      <progress aria-label={name} {...(done !== null && total ? { value: done, max: total } : {})} />
      <span>
        {name}
        {done !== null && total !== null && ` ${t.progressOf(show(done), show(total))}`}
      </span>
    </div>
  );
}
