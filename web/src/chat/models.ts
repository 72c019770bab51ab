/** The models that the server offers, and how far their loading is. */

import { useStore } from "zustand";
import { createStore } from "zustand/vanilla";
import { ApiError, request } from "../api/client";
import type { Model } from "../api/types";
import { preferences } from "./preferences";

const PAUSE = 500; // milliseconds between looks while a model loads

interface Models {
  models: readonly Model[];
}

export const models = createStore<Models>(() => ({ models: [] }));

export function useModels(): readonly Model[] {
  return useStore(models, (state) => state.models);
}

/** The one that is asked next. */
export function chosenModel(all: readonly Model[], name: string | null): Model | null {
  return all.find((model) => model.name === name) ?? all.find((model) => model.default) ?? all[0] ?? null;
}

let looking: Promise<void> | null = null;

/** Ask the server, and again for as long as one is loading. Several callers share one asking. */
export function watchModels(): Promise<void> {
  looking ??= look().finally(() => {
    looking = null;
  });
  return looking;
}

async function look(): Promise<void> {
  for (;;) {
    try {
      const found = await request<Model[]>("/api/models");
      models.setState({ models: found });
      if (found.every((model) => model.state !== "loading")) return;
    } catch (error) {
      if (error instanceof ApiError && error.status === 401) return; // nobody is signed in any more
      // The server may be starting; what needs a model says so itself.
    }
    await new Promise((resolve) => setTimeout(resolve, PAUSE));
  }
}

/** Waits until a model, the chosen one unless it is named, can answer; at once where it can already. */
export async function modelReady(signal: AbortSignal, name = preferences.getState().model): Promise<void> {
  const state = () => chosenModel(models.getState().models, name)?.state ?? "loading";
  if (state() !== "loading") return;
  void watchModels();
  await new Promise<void>((resolve, reject) => {
    const stop = models.subscribe(() => {
      if (state() !== "loading") finish(resolve);
    });
    const abort = () => finish(() => reject(signal.reason));
    const finish = (then: () => void) => {
      stop();
      signal.removeEventListener("abort", abort);
      then();
    };
    signal.addEventListener("abort", abort);
  });
}
