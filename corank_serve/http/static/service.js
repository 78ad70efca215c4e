// Requests to the service, by URLs relative to this page.

const TOKEN = "corank-token";

/** Keeps a token until this tab is closed; it is sent in a header, never in a URL. */
function keepToken(token) {
  if (token) sessionStorage.setItem(TOKEN, token);
  else sessionStorage.removeItem(TOKEN);
}

function headersWithToken(headers) {
  const token = sessionStorage.getItem(TOKEN);
  return token ? { ...headers, Authorization: `Bearer ${token}` } : headers;
}

/** A reply other than 200: the message of the service, its status, and Retry-After. */
class RefusedError extends Error {
  constructor(message, status, after) {
    super(message);
    Object.assign(this, { status, after });
  }
}

/** Parses JSON; whole numbers that a double cannot hold, such as 64-bit ids, stay text. */
function parseJson(text) {
  return JSON.parse(text, (key, value, context) => {
    const large = typeof value === "number" && Math.abs(value) > Number.MAX_SAFE_INTEGER;
    return large && /^-?\d+$/.test(context?.source) ? context.source : value;
  });
}

/** The parsed reply. Throws as `fetchText` does. */
async function fetchJson(path, options) {
  return parseJson(await fetchText(path, options));
}

/** The reply as text. Throws RefusedError; TypeError if the service cannot be reached; AbortError. */
async function fetchText(path, { headers = {}, ...options } = {}) {
  const response = await fetch(path, { cache: "no-store", headers: headersWithToken(headers), ...options });
  if (response.status === 401) document.dispatchEvent(new Event("unauthorized"));
  const text = await response.text();
  if (response.ok) return text;
  throw new RefusedError(errorOf(text) ?? `${response.status} ${response.statusText}`, response.status,
    response.headers.get("retry-after"));
}

function errorOf(text) {
  try {
    return parseJson(text).error ?? null;
  } catch {
    return null; // not from the service: a proxy, for example
  }
}

/** An error of `fetchText` as a sentence. */
function describeError(error) {
  if (!(error instanceof RefusedError)) return `The service does not answer (${error.message}).`;
  return error.after ? `${error.message}; try again in ${error.after} s` : error.message;
}
