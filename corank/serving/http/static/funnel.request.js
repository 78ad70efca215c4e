// The request: whether it is one, how it is sent, and those that were ranked before.

const HELD = "corank.requests";
const MOST = 10;

const isObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value);

/** What keeps a text from being sent, null for nothing: the service judges the rest. */
function problem(text) {
  let request;
  try {
    request = parsed(text);
  } catch (error) {
    return `Not JSON: ${error.message}`;
  }
  if (!isObject(request) || !isObject(request.user)) return "Expected an object with a user: {\"user\": {…}, …}";
  return null;
}

/** A request in a few words. */
function brief(request) {
  const user = request.user.id === undefined ? "no user id" : `user ${plain(request.user.id)}`;
  const given = request.candidates?.length;
  const candidates = given === undefined ? "candidates retrieved" : many(given, "candidate");
  const keep = Object.entries(request.keep ?? {}).map(([stage, quota]) => `, ${stage} keeps ${plain(quota)}`);
  return `${user}, ${candidates}${keep.join("")}`;
}

/** The text as it was written, with a trace asked for: of a name that is there twice, the last counts. */
function traced(text) {
  return `${text.trimEnd().slice(0, -1)}, "trace": true}`;
}

/** Texts that were ranked, the newest first, each with when. */
function earlier() {
  try {
    return JSON.parse(localStorage.getItem(HELD)) ?? [];
  } catch {
    return []; // not ours, or the browser keeps nothing
  }
}

function remember(text) {
  const others = earlier().filter((held) => held.text !== text);
  try {
    localStorage.setItem(HELD, JSON.stringify([{ text, at: Date.now() }, ...others].slice(0, MOST)));
  } catch {
    // full, or the browser keeps nothing: the page works without
  }
}

function showEarlier() {
  const held = earlier();
  byId("held").hidden = !held.length;
  byId("earlier").replaceChildren(
    el("option", { value: "" }, "Choose…"),
    ...held.map(({ text, at }, n) =>
      el("option", { value: n }, `${new Date(at).toLocaleTimeString()} · ${brief(parsed(text))}`)),
  );
}
