// The service, asked over HTTP, by addresses relative to this page.

/** An answer other than 200: what the service says, word for word, and its status. */
class Refused extends Error {
  constructor(message, status, after) {
    super(message);
    Object.assign(this, { status, after });
  }
}

/** Whole numbers that a double does not hold, such as ids of 64 bits, stay the text that they were. */
function parsed(text) {
  return JSON.parse(text, (key, value, context) => {
    const large = typeof value === "number" && Math.abs(value) > Number.MAX_SAFE_INTEGER;
    return large && /^-?\d+$/.test(context?.source) ? context.source : value;
  });
}

/** The answer. Throws as `fetched` does. */
async function ask(path, options) {
  return parsed(await fetched(path, options));
}

/** The answer as text. Throws Refused; TypeError where nobody answers; AbortError. */
async function fetched(path, options = {}) {
  const response = await fetch(path, { cache: "no-store", ...options });
  const text = await response.text();
  if (response.ok) return text;
  throw new Refused(stated(text) ?? `${response.status} ${response.statusText}`, response.status,
    response.headers.get("retry-after"));
}

function stated(text) {
  try {
    return parsed(text).error ?? null;
  } catch {
    return null; // not the service's: a proxy's, say
  }
}

/** An error of `fetched` in words. */
function why(error) {
  if (!(error instanceof Refused)) return `The service does not answer (${error.message}).`;
  return error.after ? `${error.message}; try again in ${error.after} s` : error.message;
}
