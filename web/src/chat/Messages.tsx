/** Questions and replies as they are drawn, with what can be done with each. */

import { ActionBarPrimitive, ComposerPrimitive, MessagePrimitive } from "@assistant-ui/react";
import { memo, useEffect, useRef, useState } from "react";
import type { Message } from "../api/types";
import { bytes, elapsed } from "../format";
import { type Texts, useTexts } from "../i18n";
import { icons } from "../icons";
import { Markdown } from "../markdown/Markdown";
import { useLive, useMessage, useShown } from "./context";
import { copyText } from "./copy";
import { grown, type LiveState } from "./live";
import { chosenModel, useModels } from "./models";
import { usePreferences } from "./preferences";
import { Reasoning } from "./Reasoning";

export const UserMessage = memo(function UserMessage() {
  const t = useTexts();
  const message = useMessage();
  const { last } = useShown();
  if (message === null) return null;
  if (message.role !== "user") return <OtherMessage message={message} />;
  return (
    <MessagePrimitive.Root className="message user" data-message={message.id}>
      <h2 className="hidden">{t.you}</h2>
      <Files message={message} />
      <div className="bubble" dir="auto">
        {message.content}
      </div>
      <div className="actions">
        <Versions message={message} />
        <Copy text={message.content} />
        {last?.status !== "streaming" && (
          <ActionBarPrimitive.Edit asChild>
            <button type="button" className="quiet icon" aria-label={t.edit} title={t.edit}>
              {icons.edit}
            </button>
          </ActionBarPrimitive.Edit>
        )}
      </div>
    </MessagePrimitive.Root>
  );
});

/** Instructions and the answers of functions, which imported conversations have. */
function OtherMessage({ message }: { message: Message }) {
  const t = useTexts();
  return (
    <MessagePrimitive.Root className="message other" data-message={message.id}>
      <details>
        <summary>{message.role === "tool" ? t.tool : t.instructions}</summary>
        <pre>{message.content}</pre>
      </details>
    </MessagePrimitive.Root>
  );
}

function Files({ message }: { message: Message }) {
  const t = useTexts();
  if (message.attachments.length === 0) return null;
  return (
    <ul className="files" aria-label={t.attachedFiles}>
      {message.attachments.map((file, index) => (
        // biome-ignore lint/suspicious/noArrayIndexKey: files never move, and may share a name
        <li key={index}>
          <details>
            <summary>
              {icons.file}
              <span className="name">{file.name}</span>
              <span className="size">{bytes(new Blob([file.text]).size)}</span>
            </summary>
            <pre>{file.text.slice(0, 20_000)}</pre>
          </details>
        </li>
      ))}
    </ul>
  );
}

/** A question in the middle of being edited. */
export function EditComposer() {
  const t = useTexts();
  useEffect(() => focusComposer, []);
  return (
    <MessagePrimitive.Root className="message user editing">
      <ComposerPrimitive.Root className="editor">
        <ComposerPrimitive.Input aria-label={t.editQuestion} dir="auto" autoFocus maxRows={16} />
        <div className="row">
          <ComposerPrimitive.Cancel asChild>
            <button type="button">{t.cancel}</button>
          </ComposerPrimitive.Cancel>
          <ComposerPrimitive.Send asChild>
            <button type="submit" className="primary">
              {t.send}
            </button>
          </ComposerPrimitive.Send>
        </div>
      </ComposerPrimitive.Root>
    </MessagePrimitive.Root>
  );
}

/** The editor that goes leaves the focus to the box at the foot. */
function focusComposer(): void {
  requestAnimationFrame(() => {
    if (document.activeElement === document.body)
      document.querySelector<HTMLElement>(".composer textarea")?.focus({ preventScroll: true });
  });
}

export const AssistantMessage = memo(function AssistantMessage() {
  const message = useMessage();
  const live = useLive(message);
  if (message === null) return null;
  const content = grown(message.content, live?.content);
  return (
    <MessagePrimitive.Root className="message assistant" data-message={message.id} data-status={message.status}>
      <h2 className="hidden">{message.model ?? "Millet"}</h2>
      <Reasoning message={message} live={live} />
      {live !== null && <Waiting live={live} />}
      {content !== "" && (
        <div className="answer">
          <Markdown text={content} streaming={live !== null} />
        </div>
      )}
      {message.tool_calls.map((call) => (
        <pre key={call.id} className="call">
          {call.name}({call.arguments})
        </pre>
      ))}
      {live === null && <Ending message={message} />}
      {live === null && <ReplyActions message={message} />}
    </MessagePrimitive.Root>
  );
});

/** What there is to know before the first word, and when the connection is lost. */
function Waiting({ live }: { live: LiveState }) {
  const t = useTexts();
  const model = chosenModel(useModels(), usePreferences().model);
  let text: string | null = null;
  if (!live.connected) text = t.reconnecting;
  else if (live.phase === "waiting" && live.queue) text = t.waiting(live.queue.position, live.queue.seconds);
  else if (live.phase === "starting" || live.phase === "waiting") {
    text = model?.state === "loading" ? t.modelLoading : t.starting;
  }
  if (text === null) return null;
  return (
    <p className="waiting" role="status">
      <span className="dots" aria-hidden="true" />
      {text}
    </p>
  );
}

/** Why a reply ended other than by itself. */
export function endingText(message: Message, t: Texts): string | null {
  if (message.status === "stopped") return t.stoppedNotice;
  if (message.status === "interrupted") return t.interruptedNotice;
  if (message.status === "failed") return message.failure ? t.failedNotice(message.failure) : t.failedUnknown;
  if (message.finish_reason === "length") return t.lengthNotice;
  if (message.finish_reason === "loop") return t.loopNotice;
  return null;
}

function Ending({ message }: { message: Message }) {
  const text = endingText(message, useTexts());
  if (text === null) return null;
  return (
    <p className="ending" data-kind={message.status}>
      {text}
    </p>
  );
}

function canContinue(message: Message): boolean {
  return message.status === "complete"
    ? message.finish_reason === "length" || message.finish_reason === "loop"
    : message.status !== "streaming";
}

function ReplyActions({ message }: { message: Message }) {
  const t = useTexts();
  const { store, last, options } = useShown();
  const idle = last?.status !== "streaming";
  return (
    <div className="actions">
      {idle && canContinue(message) && message.id === last?.id && (
        <button type="button" onClick={() => void store.continue(message, options())}>
          {icons.forward}
          {t.continue}
        </button>
      )}
      <Versions message={message} />
      <Copy text={message.content} />
      {idle && (
        <button
          type="button"
          className="quiet icon"
          aria-label={t.regenerate}
          title={t.regenerate}
          onClick={() => void store.answerAgain(message, options())}
        >
          {icons.again}
        </button>
      )}
      <Details message={message} />
    </div>
  );
}

function Versions({ message }: { message: Message }) {
  const t = useTexts();
  const { store, versions, last } = useShown();
  const all = versions(message);
  if (all.length < 2) return null;
  const index = all.findIndex((each) => each.id === message.id);
  const button = (to: Message | undefined, name: string, icon: React.ReactNode) => (
    <button
      type="button"
      className="quiet icon"
      aria-label={name}
      title={name}
      disabled={to === undefined || last?.status === "streaming"}
      onClick={() => to && store.choose(to)}
    >
      {icon}
    </button>
  );
  return (
    // biome-ignore lint/a11y/useSemanticElements: a fieldset is for forms
    <span className="versions" role="group" aria-label={t.version(index + 1, all.length)}>
      {button(all[index - 1], t.previousVersion, icons.left)}
      <span aria-hidden="true">
        {index + 1}/{all.length}
      </span>
      {button(all[index + 1], t.nextVersion, icons.right)}
    </span>
  );
}

function Copy({ text }: { text: string }) {
  const t = useTexts();
  const [copied, setCopied] = useState(false);
  const timer = useRef<ReturnType<typeof setTimeout>>(undefined);
  useEffect(() => () => clearTimeout(timer.current), []);
  return (
    <button
      type="button"
      className="quiet icon"
      aria-label={copied ? t.copied : t.copy}
      title={t.copy}
      onClick={async () => {
        setCopied(await copyText(text));
        timer.current = setTimeout(() => setCopied(false), 2000);
      }}
    >
      {copied ? icons.check : icons.copy}
    </button>
  );
}

/** Speed and time on the first look; tokens and model behind it. */
function Details({ message }: { message: Message }) {
  const t = useTexts();
  const { usage, seconds } = message;
  const parts: string[] = [];
  if (usage && seconds) parts.push(t.tokensPerSecond(usage.completion_tokens / seconds));
  if (seconds) parts.push(elapsed(seconds));
  if (usage === null && message.model === null) return null;
  return (
    <details className="details">
      <summary>{parts.join(" · ") || t.details}</summary>
      <dl>
        <Fact name={t.madeBy} value={message.model} />
        {usage && (
          <>
            <Fact name={t.promptTokens} value={usage.prompt_tokens.toLocaleString()} />
            <Fact name={t.cachedTokens} value={usage.cached_tokens.toLocaleString()} />
            <Fact name={t.completionTokens} value={usage.completion_tokens.toLocaleString()} />
            <Fact name={t.reasoningTokens} value={usage.reasoning_tokens.toLocaleString()} />
          </>
        )}
        {seconds !== null && <Fact name={t.time} value={elapsed(seconds)} />}
        {usage && seconds ? <Fact name={t.speed} value={t.tokensPerSecond(usage.completion_tokens / seconds)} /> : null}
      </dl>
    </details>
  );
}

function Fact({ name, value }: { name: string; value: string | null }) {
  if (value === null) return null;
  return (
    <div>
      <dt>{name}</dt>
      <dd>{value}</dd>
    </div>
  );
}
