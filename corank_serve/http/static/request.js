// The request: its check, how it is sent, and earlier requests.

const HELD = "corank.requests";
const MOST = 10;
const LINE = 60; // characters of a value on one line of an example

const isObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value);

/** Why a text cannot be sent, null if it can; the service checks the rest. */
function findProblem(text) {
  let request;
  try {
    request = parseJson(text);
  } catch (error) {
    return `Not JSON: ${error.message}`;
  }
  if (!isObject(request) || !isObject(request.user)) return "Expected an object with a user: {\"user\": {…}, …}";
  return null;
}

/** A summary of a request. */
function summarise(request) {
  const user = request.user.id === undefined ? "no user id" : `user ${plain(request.user.id)}`;
  const given = request.candidates?.length;
  const candidates = given === undefined ? "candidates retrieved" : many(given, "candidate");
  const keep = Object.entries(request.keep ?? {}).map(([stage, quota]) => `, ${stage} keeps ${plain(quota)}`);
  return `${user}, ${candidates}${keep.join("")}`;
}

/** JSON indented, where a value that has room stays on one line; values stay as they are written. */
function formatJson(text) {
  const tokens = text.match(/"(?:[^"\\]|\\.)*"|[[\]{},:]|[^\s[\]{},:"]+/g);
  const read = (indent) => {
    const open = tokens.shift();
    if (open !== "{" && open !== "[") return open;
    const parts = [];
    while (!"}]".includes(tokens[0])) {
      if (tokens[0] === ",") tokens.shift();
      const key = open === "{" ? `${tokens.shift()}${tokens.shift()} ` : "";
      parts.push(key + read(`${indent}  `));
    }
    const close = tokens.shift();
    const line = open + parts.join(", ") + close;
    if (line.length <= LINE) return line;
    return `${open}\n${parts.map((part) => `${indent}  ${part}`).join(",\n")}\n${indent}${close}`;
  };
  return read("");
}

/** The text as written, with the trace switched on: of a repeated key, the last counts. */
function withTrace(text) {
  return `${text.trimEnd().slice(0, -1)}, "trace": true}`;
}

/** The texts of earlier requests with their times, the newest first. */
function earlier() {
  try {
    return JSON.parse(localStorage.getItem(HELD)) ?? [];
  } catch {
    return []; // another format, or the browser stores nothing
  }
}

function remember(text) {
  const others = earlier().filter((held) => held.text !== text);
  try {
    localStorage.setItem(HELD, JSON.stringify([{ text, at: Date.now() }, ...others].slice(0, MOST)));
  } catch {
    // full, or the browser stores nothing: the page works without
  }
}

function showEarlier() {
  const held = earlier();
  byId("held").hidden = !held.length;
  byId("earlier").replaceChildren(
    el("option", { value: "" }, "Choose…"),
    ...held.map(({ text, at }, n) =>
      el("option", { value: n }, `${new Date(at).toLocaleTimeString()} · ${summarise(parseJson(text))}`)),
  );
}
