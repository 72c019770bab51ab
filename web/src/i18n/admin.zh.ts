import type { adminEn } from "./admin.en";

export const adminZh: typeof adminEn = {
  signIn: "登录",
};
