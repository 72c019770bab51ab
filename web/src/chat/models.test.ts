import { afterEach, expect, test, vi } from "vitest";
import { fakeServer, refuse } from "../../test/server";
import { modelReady, models, watchModels } from "./models";

const MODEL = {
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

afterEach(() => {
  models.setState({ models: [] });
  vi.unstubAllGlobals();
});

test("a question that comes before the list of models waits for it", async () => {
  fakeServer({ "GET /api/models": [[MODEL]] });
  await modelReady(new AbortController().signal);
  expect(models.getState().models).toHaveLength(1);
});

test("a reply waits for its own model, not for the one that is chosen", async () => {
  models.setState({
    models: [
      { ...MODEL, state: "loading" },
      { ...MODEL, name: "other", default: false },
    ],
  });
  await modelReady(new AbortController().signal, "other");
});

test("nobody asks for models after the session's end", async () => {
  const asked = fakeServer({ "GET /api/models": refuse(401, "sign in") });
  await watchModels();
  expect(asked).toHaveLength(1);
});
