/** Texts of signing in, the account, administration, and the page for programs. */
export const adminEn = {
  signIn: "Sign in",
};
