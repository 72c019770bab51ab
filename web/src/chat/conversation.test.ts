import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { message } from "../../test/message";
import { fakeServer, refuse, StreamedReply } from "../../test/server";
import { until } from "../../test/until";
import type { ReplyEvent } from "../api/types";
import { ConversationStore, shownBranches } from "./conversation";
import { models } from "./models";

const READY = {
  name: "m",
  default: true,
  state: "ready" as const,
  progress: null,
  context_length: 100,
  thinks: null,
  licence: null,
  languages: null,
  description: null,
};
const CONVERSATION = { id: "c1", title: "", created: 0, updated: 0 };
const BEGIN: ReplyEvent = { kind: "begin", message: "a1", model: "m", question: "q1", thought_seconds: 0 };
const FINISH: ReplyEvent = {
  kind: "finish",
  number: 4,
  status: "complete",
  finish_reason: "stop",
  usage: { prompt_tokens: 5, completion_tokens: 3, reasoning_tokens: 1, cached_tokens: 0 },
  thought_seconds: 0.5,
  seconds: 1,
  error: null,
};

beforeEach(() => {
  models.setState({ models: [READY] });
  sessionStorage.clear();
});
afterEach(() => vi.unstubAllGlobals());

const draft = (text: string) => ({ text, attachments: [] });
const path = (store: ConversationStore) => shownBranches(store.state).path;
const texts = (store: ConversationStore) => path(store).map((each) => `${each.id}: ${each.content}`);

test("a question makes the conversation, and its reply grows and ends", async () => {
  const reply = new StreamedReply();
  const asked = fakeServer({
    "POST /api/conversations": CONVERSATION,
    "POST /api/conversations/c1/replies": reply.response,
  });
  const store = new ConversationStore(null);
  const created = vi.fn();
  const done = store.ask(draft("why?"), null, { think: "auto" }, created);
  expect(path(store).map((each) => [each.role, each.status])).toEqual([
    ["user", "complete"],
    ["assistant", "streaming"],
  ]);
  reply.say(BEGIN, { kind: "reasoning", text: "hm", tokens: 2, number: 1 });
  await until(() => expect(store.live("a1")?.state.reasoning).toBe("hm"));
  expect(store.live("a1")?.state).toMatchObject({ phase: "thinking", thoughtTokens: 2 });
  expect(created).toHaveBeenCalledWith("c1");
  reply.say(
    { kind: "content", text: "so", tokens: 1, number: 2 },
    { kind: "content", text: "!", tokens: 1, number: 3 },
    FINISH,
  );
  await done;
  expect(texts(store)).toEqual(["q1: why?", "a1: so!"]);
  expect(path(store)[1]).toMatchObject({ status: "complete", reasoning: "hm", thought_seconds: 0.5, seconds: 1 });
  expect(store.busy).toBe(false);
  expect(asked[1]?.body).toEqual({ content: "why?", parent: null, think: "auto" });
});

test("a lost connection is taken up behind the last event", async () => {
  const [first, second] = [new StreamedReply(), new StreamedReply()];
  const asked = fakeServer({
    "POST /api/conversations/c1/replies": first.response,
    "GET /api/replies/a1/events": [new TypeError("offline"), second.response],
  });
  const store = new ConversationStore("c1");
  const done = store.ask(draft("why?"), null, {});
  first.say(BEGIN, { kind: "content", text: "one ", tokens: 1, number: 1 });
  await until(() => expect(store.live("a1")?.state.content).toBe("one "));
  first.break();
  await until(() => expect(store.live("a1")?.state.connected).toBe(false));
  second.say({ ...BEGIN }, { kind: "content", text: "two", tokens: 1, number: 2 }, FINISH);
  await done;
  expect(texts(store)).toEqual(["q1: why?", "a1: one two"]);
  expect(asked.filter((each) => each.path.startsWith("/api/replies")).map((each) => each.path)).toEqual([
    "/api/replies/a1/events?after=1",
    "/api/replies/a1/events?after=1",
  ]);
});

test("a server that was restarted leaves the reply as it kept it", async () => {
  const first = new StreamedReply();
  const kept = [
    message("q1", null, { content: "why?" }),
    message("a1", "q1", { role: "assistant", content: "one", status: "interrupted" }),
  ];
  fakeServer({
    "POST /api/conversations/c1/replies": first.response,
    "GET /api/replies/a1/events": refuse(404, "no such reply is under way", "reply_not_found"),
    "GET /api/conversations/c1": { conversation: CONVERSATION, messages: kept },
  });
  const store = new ConversationStore("c1");
  const done = store.ask(draft("why?"), null, {});
  first.say(BEGIN, { kind: "content", text: "one", tokens: 1, number: 1 });
  await until(() => expect(store.live("a1")?.state.content).toBe("one"));
  first.close();
  await done;
  expect(path(store)[1]).toMatchObject({ id: "a1", status: "interrupted", content: "one" });
  expect(store.state.failure).toBeNull();
});

test("what the server refuses comes back to where it was written, with the reason", async () => {
  fakeServer({ "POST /api/conversations/c1/replies": refuse(400, "too long", "context_length_exceeded") });
  const store = new ConversationStore("c1");
  await store.ask(draft("long"), null, {});
  expect(store.state.messages).toEqual([]);
  expect(store.state.failure).toMatch(/too long for the model/);
  expect(store.takeReturned()).toEqual(draft("long"));
  expect(store.takeReturned()).toBeNull();
});

test("a question that arrived although the connection was lost is not asked twice", async () => {
  const kept = [message("q1", null, { content: "why?" }), message("a1", "q1", { role: "assistant", content: "so" })];
  const routes = {
    "POST /api/conversations/c1/replies": new TypeError("offline"),
    "GET /api/conversations/c1": { conversation: CONVERSATION, messages: kept },
  };
  fakeServer(routes);
  const store = new ConversationStore("c1");
  await store.ask(draft("why?"), null, {});
  expect(texts(store)).toEqual(["q1: why?", "a1: so"]);
  expect(store.state.returned).toBeNull();
  expect(store.state.failure).toBeNull();
  await store.ask(draft("and now?"), "a1", {});
  expect(store.state.returned).toEqual(draft("and now?"));
  expect(store.state.failure).not.toBeNull();
});

test("a question waits for a model that loads, and can be taken back", async () => {
  models.setState({ models: [{ ...READY, state: "loading" }] });
  const asked = fakeServer({ "GET /api/models": [[{ ...READY, state: "loading" }]] });
  const store = new ConversationStore("c1");
  const done = store.ask(draft("why?"), null, {});
  const reply = path(store)[1];
  if (reply === undefined) throw new Error("no reply");
  await store.stop(reply);
  await done;
  expect(path(store)).toEqual([]);
  expect(store.state.failure).toBeNull();
  expect(store.state.returned).toEqual(draft("why?"));
  expect(asked.every((each) => each.method === "GET")).toBe(true);
  models.setState({ models: [READY] });
});

test("another answer is a version, and an edit a branch", async () => {
  const [again, edited] = [new StreamedReply(), new StreamedReply()];
  const asked = fakeServer({ "POST /api/conversations/c1/replies": [again.response, edited.response] });
  const store = new ConversationStore("c1");
  const kept = [message("q", null), message("a", "q", { role: "assistant" })];
  store.store.setState({ messages: kept, loaded: true });
  const answering = store.answerAgain(kept[1] as never, {});
  again.say(
    { kind: "begin", message: "b", model: "m", thought_seconds: 0 },
    { kind: "content", text: "B", tokens: 1, number: 1 },
    FINISH,
  );
  await answering;
  expect(texts(store)).toEqual(["q: q", "b: B"]);
  expect(asked[0]?.body).toEqual({ parent: "q" });
  store.choose(kept[1] as never);
  expect(texts(store)).toEqual(["q: q", "a: a"]);

  const asking = store.ask(draft("else?"), null, {});
  edited.say({ kind: "begin", message: "d", model: "m", question: "r", thought_seconds: 0 }, FINISH);
  await asking;
  expect(texts(store)).toEqual(["r: else?", "d: "]);
  const question = path(store)[0];
  expect(shownBranches(store.state).versions(question as never)).toHaveLength(2);
});

test("a reply goes on where it ended", async () => {
  const reply = new StreamedReply();
  fakeServer({ "POST /api/replies/a/continue": reply.response });
  const store = new ConversationStore("c1");
  const kept = [message("q", null), message("a", "q", { role: "assistant", content: "one", status: "stopped" })];
  store.store.setState({ messages: kept, loaded: true });
  const done = store.continue(kept[1] as never, {});
  reply.say(
    { kind: "begin", message: "a", model: "m", thought_seconds: 0 },
    { kind: "content", text: "one", tokens: 1, number: 1 },
    { kind: "content", text: " two", tokens: 1, number: 2 },
    FINISH,
  );
  await done;
  expect(texts(store)).toEqual(["q: q", "a: one two"]);
});

test("a reply that cannot go on stays as it was", async () => {
  fakeServer({ "POST /api/replies/a/continue": refuse(409, "it is complete") });
  const store = new ConversationStore("c1");
  const kept = [message("q", null), message("a", "q", { role: "assistant", content: "one", status: "stopped" })];
  store.store.setState({ messages: kept, loaded: true });
  await store.continue(kept[1] as never, {});
  expect(path(store)[1]).toMatchObject({ status: "stopped", content: "one" });
  expect(store.state.failure).toBe("it is complete");
});

test("a reply that another tab began is followed from its beginning", async () => {
  const reply = new StreamedReply();
  const kept = [
    message("q", null),
    message("a", "q", { role: "assistant", content: "on", status: "streaming" as const }),
  ];
  const asked = fakeServer({
    "GET /api/conversations/c1": { conversation: CONVERSATION, messages: kept },
    "GET /api/replies/a/events": reply.response,
  });
  const store = new ConversationStore("c1");
  await store.load();
  reply.say(
    { kind: "begin", message: "a", model: "m", thought_seconds: 0 },
    { kind: "content", text: "one", tokens: 1, number: 1 },
    FINISH,
  );
  await until(() => expect(store.busy).toBe(false));
  expect(texts(store)).toEqual(["q: q", "a: one"]);
  expect(asked[1]?.path).toBe("/api/replies/a/events?after=0");
});

test("a conversation that is gone says so", async () => {
  fakeServer({});
  const store = new ConversationStore("c1");
  await store.load();
  expect(store.state.missing).toBe(true);
});

test("a newer version is shown after a reload of the page too, where an older one was chosen before", async () => {
  const reply = new StreamedReply();
  fakeServer({ "POST /api/conversations/c1/replies": reply.response });
  const store = new ConversationStore("c1");
  const kept = [message("q", null), message("a", "q", { role: "assistant" }), message("b", "q", { role: "assistant" })];
  store.store.setState({ messages: kept, loaded: true });
  store.choose(kept[1] as never);
  const answering = store.answerAgain(kept[1] as never, {});
  reply.say({ kind: "begin", message: "c", model: "m", thought_seconds: 0 }, FINISH);
  await answering;
  const reloaded = new ConversationStore("c1");
  reloaded.store.setState({ messages: store.state.messages });
  expect(path(reloaded).map((each) => each.id)).toEqual(["q", "c"]);
});

test("what is on its way to the server is stopped as soon as it has begun", async () => {
  const reply = new StreamedReply();
  const asked = fakeServer({
    "POST /api/conversations/c1/replies": reply.response,
    "POST /api/replies/a1/stop": null,
  });
  const store = new ConversationStore("c1");
  const done = store.ask(draft("why?"), null, {});
  await until(() => expect(asked).toHaveLength(1));
  await store.stop(path(store)[1] as never);
  expect(texts(store)).toHaveLength(2);
  reply.say(BEGIN);
  await until(() => expect(asked.at(-1)?.path).toBe("/api/replies/a1/stop"));
  reply.say({ ...FINISH, status: "stopped" });
  await done;
  expect(path(store)[1]).toMatchObject({ id: "a1", status: "stopped" });
});

test("a reply that waits for its model to go on can be stopped", async () => {
  models.setState({ models: [{ ...READY, state: "loading" }] });
  const asked = fakeServer({ "GET /api/models": [[{ ...READY, state: "loading" }]] });
  const store = new ConversationStore("c1");
  const kept = [message("q", null), message("a", "q", { role: "assistant", content: "one", status: "stopped" })];
  store.store.setState({ messages: kept, loaded: true });
  const done = store.continue(kept[1] as never, {});
  await store.stop(path(store)[1] as never);
  await done;
  expect(path(store)[1]).toEqual(kept[1]);
  expect(asked.every((each) => each.method === "GET")).toBe(true);
});

test("off the screen no reply is followed; back on it, it is", async () => {
  const [first, second] = [new StreamedReply(), new StreamedReply()];
  const growing = message("a1", "q1", { role: "assistant", content: "one", status: "streaming" });
  const asked = fakeServer({
    "POST /api/conversations/c1/replies": first.response,
    "GET /api/conversations/c1": { conversation: CONVERSATION, messages: [message("q1", null), growing] },
    "GET /api/replies/a1/events": second.response,
  });
  const store = new ConversationStore("c1");
  const done = store.ask(draft("why?"), null, {});
  first.say(BEGIN, { kind: "content", text: "one ", tokens: 1, number: 1 });
  await until(() => expect(store.live("a1")?.state.content).toBe("one "));
  store.leave();
  first.break(); // as the browser does
  await done;
  expect(store.busy).toBe(false);
  expect(store.state.failure).toBeNull();
  expect(path(store)[1]).toMatchObject({ content: "one ", status: "streaming" });
  expect(asked).toHaveLength(1);
  await store.show();
  second.say(BEGIN, { kind: "content", text: "one two", tokens: 2, number: 1 }, FINISH);
  await until(() => expect(store.busy).toBe(false));
  expect(path(store)[1]).toMatchObject({ content: "one two", status: "complete" });
});

test("what was asked for before a reply ended does not undo its end", async () => {
  const reply = new StreamedReply();
  const question = message("q1", null, { content: "why?" });
  const tree = (status: "streaming" | "complete", content: string) => ({
    conversation: CONVERSATION,
    messages: [question, message("a1", "q1", { role: "assistant", content, status })],
  });
  let old: () => void = () => {};
  const held = new Promise<void>((resolve) => {
    old = resolve;
  });
  const trees = [held.then(() => tree("streaming", "o")), tree("complete", "one")];
  fakeServer({
    "POST /api/conversations/c1/replies": reply.response,
    "GET /api/conversations/c1": () => trees.shift() as object,
  });
  const store = new ConversationStore("c1");
  const done = store.ask(draft("why?"), null, {});
  reply.say(BEGIN, { kind: "content", text: "one", tokens: 1, number: 1 });
  await until(() => expect(store.live("a1")?.state.content).toBe("one"));
  const loading = store.load();
  reply.say(FINISH);
  await done;
  const statuses: (string | undefined)[] = [];
  store.store.subscribe(() => statuses.push(path(store)[1]?.status));
  old();
  await loading;
  expect(new Set(statuses)).toEqual(new Set(["complete"]));
});
