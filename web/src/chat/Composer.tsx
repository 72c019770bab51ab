/** The box to write in: the question, its files, how the model is to think, and whether all of it fits. */

import { ComposerPrimitive, useAui, useAuiState } from "@assistant-ui/react";
import { type KeyboardEvent, useEffect, useRef, useState } from "react";
import type { Message, ReplyOptions } from "../api/types";
import { bytes } from "../format";
import { useTexts } from "../i18n";
import { icons } from "../icons";
import type { Attaching } from "./attaching";
import type { ConversationStore } from "./conversation";
import { useCount } from "./count";
import { useDraft } from "./drafts";
import { chosenModel, useModels } from "./models";
import { MOST_TOKENS, preferences, type Thinking, usePreferences } from "./preferences";
import { useDrop } from "./useDrop";

interface Props {
  store: ConversationStore;
  last: Message | null;
  attaching: Attaching;
  options: () => ReplyOptions;
}

export function Composer({ store, last, attaching, options }: Props) {
  const t = useTexts();
  const aui = useAui();
  const over = useDrop(attaching.add);
  const running = last?.status === "streaming";
  const text = useAuiState((state) => state.composer.text);
  const count = useCount(store, text, attaching, last?.id ?? null, options);
  const tooLong = count !== null && !count.fits;
  useDraft(store, text, attaching);

  const onKeyDown = (event: KeyboardEvent) => {
    if (event.nativeEvent.isComposing) return; // the key is the input method's
    if (event.key === "Escape" && running && last) void store.stop(last);
    if (event.key === "ArrowUp" && text === "" && !running) {
      const asked = aui.thread.getState().messages.findLast((each) => each.role === "user");
      if (asked === undefined) return;
      event.preventDefault();
      aui.thread.message({ id: asked.id }).composer().beginEdit();
    }
    if (event.key === "Enter" && !event.shiftKey && tooLong) event.preventDefault();
  };

  return (
    <div className="composer-frame">
      <Failure store={store} />
      <LoadingBar />
      <ComposerPrimitive.Root
        className="composer"
        noValidate
        data-over={over || undefined}
        onSubmit={(event) => {
          if (tooLong || !attaching.ready) event.preventDefault();
        }}
      >
        {over && <p className="drop">{t.dropFiles}</p>}
        <Attached attaching={attaching} />
        <ComposerPrimitive.Input
          aria-label={t.ask}
          dir="auto"
          placeholder={t.ask}
          autoFocus
          maxRows={12}
          addAttachmentOnPaste={false}
          onKeyDown={onKeyDown}
          onPaste={(event) => {
            // Spreadsheets and the like give a picture of the text besides the text.
            if (event.clipboardData.files.length > 0 && !event.clipboardData.types.includes("text/plain")) {
              event.preventDefault();
              attaching.add(event.clipboardData.files);
            }
          }}
        />
        {tooLong && (
          <p className="too-long" role="alert">
            {t.tooLong(count.prompt_tokens ?? 0, count.context_length ?? 0)}
          </p>
        )}
        <div className="row">
          <AttachButton attaching={attaching} />
          <ThinkingPicker />
          <ModelPicker />
          <span className="space" />
          {count !== null && count.prompt_tokens !== null && !tooLong && (
            <span className="count" aria-live="off">
              {count.context_length === null
                ? t.tokens(count.prompt_tokens)
                : t.tokensOf(count.prompt_tokens, count.context_length)}
            </span>
          )}
          {running && last ? (
            <button
              type="button"
              className="primary icon"
              aria-label={t.stop}
              title={t.stop}
              onClick={() => void store.stop(last)}
            >
              {icons.stop}
            </button>
          ) : (
            <ComposerPrimitive.Send asChild disabled={tooLong || !attaching.ready || text.trim() === ""}>
              <button type="submit" className="primary icon" aria-label={t.send} title={t.send}>
                {icons.send}
              </button>
            </ComposerPrimitive.Send>
          )}
        </div>
      </ComposerPrimitive.Root>
    </div>
  );
}

function Failure({ store }: { store: ConversationStore }) {
  const t = useTexts();
  const [failure, setFailure] = useState(store.state.failure);
  useEffect(() => {
    setFailure(store.state.failure);
    return store.store.subscribe((state) => setFailure(state.failure));
  }, [store]);
  if (failure === null) return null;
  return (
    <div className="failure" role="alert">
      <span>{t.failed(failure)}</span>
      <button type="button" className="quiet icon" aria-label={t.close} onClick={() => store.dismiss()}>
        {icons.close}
      </button>
    </div>
  );
}

/** How far the chosen model's loading is. */
function LoadingBar() {
  const t = useTexts();
  const model = chosenModel(useModels(), usePreferences().model);
  if (model === null || model.state === "ready") return null;
  if (model.state === "unreachable") return <p className="loading">{t.modelUnreachable}</p>;
  const { step = "load", done = null, total = null } = model.progress ?? {};
  const text =
    step === "download" && done !== null && total !== null
      ? t.modelDownloading(bytes(done), bytes(total))
      : t.modelLoadingShort;
  return (
    <p className="loading">
      <span>{text}</span>
      {done !== null && total ? (
        <progress aria-label={text} max={total} value={done} />
      ) : (
        <progress aria-label={text} />
      )}
    </p>
  );
}

function Attached({ attaching }: { attaching: Attaching }) {
  const t = useTexts();
  if (attaching.files.length === 0) return null;
  return (
    <ul className="files" aria-label={t.attachedFiles}>
      {attaching.files.map((file) => (
        <li key={file.key} className="file">
          {icons.file}
          <span className="name">{file.attachment === null ? t.attachmentReading(file.name) : file.name}</span>
          <button
            type="button"
            className="quiet icon"
            aria-label={t.removeAttachment(file.name)}
            onClick={() => attaching.remove(file.key)}
          >
            {icons.close}
          </button>
        </li>
      ))}
    </ul>
  );
}

function AttachButton({ attaching }: { attaching: Attaching }) {
  const t = useTexts();
  const input = useRef<HTMLInputElement>(null);
  return (
    <>
      <input
        ref={input}
        type="file"
        multiple
        hidden
        onChange={(event) => {
          attaching.add([...(event.target.files ?? [])]);
          event.target.value = "";
        }}
      />
      <button
        type="button"
        className="quiet icon"
        aria-label={t.attach}
        title={t.attach}
        onClick={() => input.current?.click()}
      >
        {icons.attach}
      </button>
    </>
  );
}

function ThinkingPicker() {
  const t = useTexts();
  const { thinking, budget } = usePreferences();
  return (
    <>
      <label className="picker" title={t.thinking}>
        {icons.thought}
        <span className="name">{t.thinking}</span>
        <select
          value={thinking}
          onChange={(event) => preferences.setState({ thinking: event.target.value as Thinking })}
        >
          <option value="off">{t.thinkOff}</option>
          <option value="auto">{t.thinkAuto}</option>
          <option value="on">{t.thinkOn}</option>
          <option value="budget">{t.thinkBudget}</option>
        </select>
      </label>
      {thinking === "budget" && (
        <input
          type="number"
          className="budget"
          aria-label={t.budget}
          title={t.budget}
          min={0}
          step={1}
          defaultValue={budget}
          onChange={(event) => {
            const value = event.target.valueAsNumber;
            if (value >= 0) preferences.setState({ budget: Math.min(Math.round(value), MOST_TOKENS) });
          }}
          onBlur={(event) => {
            event.target.value = `${budget}`;
          }}
        />
      )}
    </>
  );
}

function ModelPicker() {
  const t = useTexts();
  const models = useModels();
  const chosen = chosenModel(models, usePreferences().model);
  if (models.length < 2) return <span className="model">{chosen?.name}</span>;
  return (
    <label className="picker">
      <span className="hidden">{t.model}</span>
      <select value={chosen?.name ?? ""} onChange={(event) => preferences.setState({ model: event.target.value })}>
        {models.map((model) => (
          <option key={model.name} value={model.name}>
            {model.name}
            {model.state === "loading" ? " …" : ""}
          </option>
        ))}
      </select>
    </label>
  );
}
