/** Code that talks with this server, ready to be pasted. */

export interface Example {
  /** The server's origin. */
  base: string;
  model: string;
  /** Null where none is needed. */
  key: string | null;
  question: string;
}

export function examples({ base, model, key, question }: Example): Examples {
  const messages = `[{"role": "user", "content": ${literal(question)}}]`;
  const body = `{"model": ${literal(model)},\n  "messages": ${messages}}`;
  const shown = literal(key ?? "none"); // the libraries insist on one
  return {
    shell: [
      `curl ${base}/v1/chat/completions -H 'Content-Type: application/json' \\`,
      ...(key === null ? [] : [`  -H 'Authorization: Bearer ${key}' \\`]),
      `  -d ${quoted(body)}`,
    ].join("\n"),
    openai: `from openai import OpenAI

client = OpenAI(base_url=${literal(`${base}/v1`)}, api_key=${shown})
reply = client.chat.completions.create(
    model=${literal(model)},
    messages=${messages},
)
message = reply.choices[0].message
print(getattr(message, "reasoning_content", ""))  # absent without a thought
print(message.content)`,
    anthropic: `from anthropic import Anthropic

client = Anthropic(base_url=${literal(base)}, api_key=${shown})
reply = client.messages.create(
    model=${literal(model)},
    max_tokens=2048,
    messages=${messages},
)
for block in reply.content:
    print(block.thinking if block.type == "thinking" else block.text)`,
    environment: `export OPENAI_BASE_URL=${base}/v1
export OPENAI_API_KEY=${key ?? "none"}
export ANTHROPIC_BASE_URL=${base}
export ANTHROPIC_API_KEY=${key ?? "none"}`,
  };
}

interface Examples {
  shell: string;
  openai: string;
  anthropic: string;
  environment: string;
}

/** JSON's strings are Python's too. */
function literal(text: string): string {
  return JSON.stringify(text);
}

/** As one word of a shell. */
function quoted(text: string): string {
  return `'${text.replaceAll("'", "'\\''")}'`;
}
