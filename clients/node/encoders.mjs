// Raw values → what networks read of them, and what derived features take: {encoded, hashes, number}.
import {hashId, hashValue, roundToHalf, splitmix} from "./arrays.mjs";

const MISSING = 0, UNKNOWN = 1, FIRST = 2;

/** The first position of ascending values that is not below x, or with `right` the first above x. */
export function bisect(values, x, right = false, low = 0, high = values.length) {
  while (low < high) {
    const middle = (low + high) >> 1;
    if (right ? values[middle] <= x : values[middle] < x) low = middle + 1; else high = middle;
  }
  return low;
}

/** Ids, whole numbers or text, and where each is. */
export class Ids {
  constructor(text, values) { this.text = text, this.index = new Map(values.map((id, n) => [this.#key(id), n])); }
  #key(id) { return typeof id === "string" ? JSON.stringify(id) : String(id); }
  /** The position of an id, a BigInt too; −1 if it is not there. */
  find(id) { return this.index.get(this.#key(id)) ?? -1; }
}

class Vocabulary {
  constructor(ids) { this.ids = ids, this.text = ids.index.size ? ids.text : null; }
  codeOf(id) { const at = this.ids.find(id); return at < 0 ? UNKNOWN : at + FIRST; }
  codeOfHash(hash) { return hash === 0n ? MISSING : this.codeOf(BigInt.asIntN(64, hash)); }
}

class Hash {
  constructor({rows, text}) { this.rows = BigInt(rows), this.text = text; }
  codeOf(id) { return Number(hashId(id) % this.rows) + FIRST; }
  codeOfHash(hash) { return hash === 0n ? MISSING : this.codeOf(hash); }
}

/** The code of an identifier by a vocabulary or hash encoder. */
function codeOf(encoder, id) {
  if (id === null || !encoder) return MISSING;
  if (encoder.text !== null && typeof id === "string" !== encoder.text) throw new Error(`expected ${encoder.text ? "text" : "whole numbers"}, as in training; received ${JSON.stringify(id)}`);
  return encoder.codeOf(id);
}

class Bucket {
  constructor({edges}) { this.edges = edges; }
  encode(x) { return Number.isNaN(x) ? MISSING : bisect(this.edges, x, true) + FIRST; }
}

class Scale {
  constructor(fields) { Object.assign(this, fields); }
  encode(x) {
    if (Number.isNaN(x)) return 0;
    if (this.low !== null) x = Math.min(Math.max(x, this.low), this.high);
    if (this.form === "quantile") return Math.fround((this.#share(x) - 0.5) * Math.sqrt(12));
    if (this.form === "log") x = Math.sign(x) * Math.log1p(Math.abs(x));
    return Math.fround((x - this.mean) / this.std);
  }
  #share(x) {
    const {knots, shares} = this, n = bisect(knots, x, true);
    if (n === 0 || n === knots.length) return shares[n === 0 ? 0 : n - 1];
    return shares[n - 1] + (shares[n] - shares[n - 1]) / (knots[n] - knots[n - 1]) * (x - knots[n - 1]);
  }
}

/** Encoders by what encoders.json says that they are; `readIds` reads the values of a vocabulary. */
export const ENCODERS = {
  vocabulary: (fields, readIds) => new Vocabulary(readIds(`encoders/${fields.file}`)),
  hash: (fields) => new Hash(fields), bucket: (fields) => new Bucket(fields), scale: (fields) => new Scale(fields),
};

/** Features of a column by their kind: their facts, their encoder and a value → what is made of it. */
export const COLUMN_KINDS = {
  id: (_, encoder, value) => { const id = toId(value); return {encoded: codeOf(encoder, id), hashes: [hashValue(id)]}; },
  ids: ({separator, last}, encoder, value) => listOf(encoder, toList(value, separator).slice(0, last)),
  number: (_, encoder, value) => { const number = toNumber(value); return {encoded: encoder?.encode(number), number}; },
  bucket: (_, encoder, value) => {
    const number = toNumber(value), encoded = encoder.encode(number);
    return {encoded, number, hashes: [encoded === MISSING ? 0n : splitmix(BigInt(encoded))]};
  },
  vector: (facts, _, value) => ({encoded: toVector(value, facts)}),
  time: (_, encoder, value) => ({number: value === null ? NaN : toTime(value, true)}),
};

/** A list of ids. */
export function listOf(encoder, ids, weights = null) {
  return {encoded: {codes: ids.map((id) => codeOf(encoder, id)), weights}, hashes: ids.map(hashValue)};
}

/** A value as an identifier: a whole number or text, null for null. */
export function toId(value) {
  if (value === null || value === undefined) return null;
  if (typeof value === "boolean") return Number(value);
  if (typeof value === "string" || Number.isSafeInteger(value)) return value;
  throw new Error(`expected whole numbers or text; received ${JSON.stringify(value)}`);
}

export function toNumber(value) {
  if (value === null || value === undefined) return NaN;
  if (typeof value !== "number" && typeof value !== "boolean") throw new Error(`expected numbers; received ${JSON.stringify(value)}`);
  return Number(value);
}

/** The single values of a list, or of a text with a separator, without nulls and blanks. */
function toList(value, separator) {
  if (value === null) return [];
  const held = separator !== null && typeof value === "string" ? value.split(separator) : value;
  if (!Array.isArray(held)) throw new Error(`expected lists; received ${JSON.stringify(value)}`);
  const known = held.filter((one) => one !== null);
  return separator === null ? known.map(toId) : known.map((one) => String(one).trim()).filter((one) => one !== "");
}

/** ISO 8601 (UTC without a zone) or ms since 1970 → ms; in a column ms may also be text. */
export function toTime(value, column = false) {
  if (Number.isSafeInteger(value) || (column && /^-?\d+$/.test(value))) return Number(value);
  const found = /^(\d{4}-\d{2}-\d{2})(?:[T ](\d{2}:\d{2})(:\d{2}(?:\.\d{1,6})?)?(Z|[+-]\d{2}:\d{2})?)?$/.exec(value);
  const ms = found ? Date.parse(`${found[1]}T${found[2] ?? "00:00"}${found[3] ?? ":00"}${found[4] ?? "Z"}`) : NaN;
  if (Number.isNaN(ms)) throw new Error(`expected ISO 8601 or whole ms since 1970; received ${JSON.stringify(value)}`);
  return ms;
}

function toVector(value, {dim, normalise}) {
  if (value === null) return null;
  if (!Array.isArray(value) || value.length !== dim) throw new Error(`expected a list of ${dim} numbers; received ${JSON.stringify(value)}`);
  let held = value.map((x) => Math.fround(x));
  const largest = Math.max(...held.map(Math.abs));
  if (!held.every(Number.isFinite) || (!normalise && largest > 65504)) throw new Error("a vector's numbers must be finite, in 16 bits");
  if (normalise && largest > 0) {
    const scaled = held.map((x) => x / largest), length = Math.sqrt(scaled.reduce((sum, x) => sum + x * x, 0));
    held = scaled.map((x) => x / length);
  }
  held = held.map(roundToHalf);
  return held.some((x) => x !== 0) ? Float32Array.from(held) : null;
}
