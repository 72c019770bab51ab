import { renderToStaticMarkup } from "react-dom/server";
import type { Message } from "../api/types";
import { elapsed } from "../format";
import { type Texts, TextsContext, useTexts } from "../i18n";
import { highlight } from "../markdown/highlight";
import { Markdown } from "../markdown/Markdown";
import { type Still, StillContext } from "../markdown/still";
import markdownCss from "../styles/markdown.css?inline";
import shareCss from "./share.css?inline";

export interface Shared {
  title: string;
  messages: readonly Message[];
  texts: Texts;
  /** As in the attribute `lang`. */
  language: string;
  formula: Still["formula"];
}

/** Whatever a reply holds, the page runs and loads nothing. */
const POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'";

export function pageOf({ title, messages, texts, language, formula }: Shared): string {
  const page = (
    <html lang={language}>
      <head>
        <meta charSet="utf-8" />
        <meta httpEquiv="Content-Security-Policy" content={POLICY} />
        <meta name="viewport" content="width=device-width, initial-scale=1" />
        <meta name="color-scheme" content="light dark" />
        <meta name="referrer" content="no-referrer" />
        <title>{title}</title>
        <style>{shareCss + markdownCss}</style>
      </head>
      <body>
        <main>
          <header>
            <h1 dir="auto">{title}</h1>
            <p>{texts.sharedFrom}</p>
          </header>
          {messages.map((message) => (
            <Turn key={message.id} message={message} />
          ))}
        </main>
      </body>
    </html>
  );
  return `<!doctype html>${renderToStaticMarkup(
    <TextsContext value={texts}>
      <StillContext value={{ formula, code: highlight }}>{page}</StillContext>
    </TextsContext>,
  )}`;
}

function Turn({ message }: { message: Message }) {
  const t = useTexts();
  if (message.role === "user") {
    return (
      <section className="user">
        <h2>{t.you}</h2>
        {message.attachments.length > 0 && (
          <ul aria-label={t.attachedFiles}>
            {message.attachments.map(({ name }, index) => (
              // biome-ignore lint/suspicious/noArrayIndexKey: files never move, and may share a name
              <li key={index}>{name}</li>
            ))}
          </ul>
        )}
        <p className="question" dir="auto">
          {message.content}
        </p>
      </section>
    );
  }
  if (message.role !== "assistant") {
    return (
      <details>
        <summary>{message.role === "tool" ? t.tool : t.instructions}</summary>
        <pre>{message.content}</pre>
      </details>
    );
  }
  return (
    <section>
      <h2>{message.model ?? "Millet"}</h2>
      {message.reasoning && (
        <details>
          <summary>{thought(message, t)}</summary>
          <Markdown text={message.reasoning} />
        </details>
      )}
      <Markdown text={message.content} />
      {message.tool_calls.map((call) => (
        <pre key={call.id}>
          {call.name}({call.arguments})
        </pre>
      ))}
    </section>
  );
}

function thought(message: Message, t: Texts): string {
  if (message.thought_seconds <= 0) return message.status === "complete" ? t.thinking : t.thoughtStopped;
  return t.thoughtFor(elapsed(message.thought_seconds), message.usage?.reasoning_tokens ?? null);
}
