// Requests to the service, by URLs relative to this page.

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
async function fetchText(path, options = {}) {
  const response = await fetch(path, { cache: "no-store", ...options });
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
