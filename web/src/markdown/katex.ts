import { lazy } from "./lazy";

export const loadKatex = lazy(() => import("./katexRender"));
