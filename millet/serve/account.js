// The account page: signing in, API keys, usage, invitations. It only calls the routes under /api.
const $ = (id) => document.getElementById(id);
let csrf = null;

async function call(method, path, body) {
  const headers = { "Content-Type": "application/json" };
  if (csrf) headers["X-CSRF-Token"] = csrf;
  const response = await fetch("/api" + path, { method, headers, body: body && JSON.stringify(body) });
  if (response.status === 204) return null;
  const answer = await response.json();
  if (!response.ok) throw Object.assign(new Error(answer.error.message), { status: response.status });
  return answer;
}

const say = (text) => ($("message").textContent = text);
const invitation = () => new URLSearchParams(location.hash.slice(1)).get("invite");

// Text only, never markup: names are what people typed.
function row(tag, ...cells) {
  const element = document.createElement(tag);
  for (const cell of cells) {
    const part = tag === "tr" ? document.createElement("td") : document.createElement("span");
    part.append(cell);
    element.append(part, " ");
  }
  return element;
}

function button(text, action) {
  const element = document.createElement("button");
  element.textContent = text;
  element.onclick = () => action().catch((error) => say(error.message));
  return element;
}

function onSubmit(id, action) {
  $(id).onsubmit = (event) => {
    event.preventDefault();
    action(Object.fromEntries(new FormData($(id)))).catch((error) => say(error.message));
  };
}

async function show() {
  let me = null;
  try {
    me = await call("GET", "/account");
  } catch (error) {
    if (error.status !== 401) throw error;
  }
  const signedIn = Boolean(me?.account);
  csrf = me?.csrf ?? null;
  $("accept").hidden = signedIn || !invitation();
  $("sign-in").hidden = signedIn || Boolean(invitation()) || Boolean(me?.one_person);
  $("signed-in").hidden = !signedIn;
  if (me?.one_person) say("This server has no accounts; start it with --users to have them.");
  if (!signedIn) return;
  $("who").textContent = `${me.account.name} (${me.role})`;
  await Promise.all([showKeys(), showUsage(), me.role === "admin" ? showAccounts() : null]);
  const limits = Object.entries(me.account.limits).filter(([, value]) => value !== null);
  $("limits").replaceChildren(...limits.map(([name, value]) => row("li", `${name.replaceAll("_", " ")}: ${value}`)));
  if (!limits.length) $("limits").replaceChildren(row("li", "none"));
}

async function showKeys() {
  const keys = (await call("GET", "/keys")).filter((key) => key.revoked === null);
  const revoke = (key) => button("Revoke", async () => (await call("DELETE", `/keys/${key.id}`), await showKeys()));
  $("keys").replaceChildren(...keys.map((key) => row("li", key.name, `${key.prefix}…`, revoke(key))));
}

async function showUsage() {
  const rows = await call("GET", "/usage");
  const cells = (use) => [use.day, use.model, use.requests, use.prompt_tokens, use.completion_tokens, use.cost.toFixed(4)];
  $("usage").replaceChildren(...rows.map((use) => row("tr", ...cells(use).map(String))));
}

async function showAccounts() {
  $("admin").hidden = false;
  const accounts = await call("GET", "/admin/accounts");
  const toggle = (account) =>
    button(account.disabled ? "Enable" : "Disable", async () => {
      await call("PATCH", `/admin/accounts/${account.id}`, { disabled: !account.disabled });
      await showAccounts();
    });
  $("accounts").replaceChildren(...accounts.map((account) => row("li", account.name ?? "", account.role, toggle(account))));
}

onSubmit("sign-in", async (fields) => {
  await call("POST", "/login", fields);
  say("");
  await show();
});
onSubmit("accept", async ({ name, password }) => {
  await call("POST", "/invitations/accept", { token: invitation(), name: name || null, password });
  history.replaceState(null, "", location.pathname);
  say("");
  await show();
});
onSubmit("new-key", async (fields) => {
  const { secret } = await call("POST", "/keys", fields);
  say(`Your new key, shown this once: ${secret}`);
  await showKeys();
});
onSubmit("invite", async (fields) => {
  const { token } = await call("POST", "/invitations", fields);
  say(`Send this link; it works once, within 7 days: ${location.origin}/account#invite=${token}`);
});
$("sign-out").onclick = () => call("POST", "/logout").then(show, (error) => say(error.message));
show().catch((error) => say(error.message));
