import { screen } from "@testing-library/react";
import { expect, test } from "vitest";
import ProgramsPage from "./ProgramsPage";
import { ALONE, account, serve, show } from "./testing";

test("examples name this server and its default model", async () => {
  const model = { name: "small", default: true, state: "ready" };
  serve({ ...account(ALONE), "GET /api/models": () => [model] });
  const { container } = show(ProgramsPage, "/api");
  await screen.findByText("From a shell");
  const code = [...container.querySelectorAll("pre")].map((pre) => pre.textContent);
  expect(code).toHaveLength(4);
  expect(code[0]).toContain(`curl ${window.location.origin}/v1/chat/completions`);
  expect(code[1]).toContain('model="small"');
});
