// Fitted encoders: raw values → codes, numbers, vectors, and the operands of derived features.
import {blake, hashValue, roundToHalf, splitmix} from "./arrays.mjs";

export const MISSING = 0, UNKNOWN = 1, FIRST = 2;

/** The first position of ascending values that is not below x, or with `right` the first above x. */
export function bisect(values, x, right = false, low = 0, high = values.length) {
  while (low < high) {
    const middle = (low + high) >> 1;
    if (right ? values[middle] <= x : values[middle] < x) low = middle + 1; else high = middle;
  }
  return low;
}

export class Vocabulary {
  constructor({text, values}) {
    this.text = text, this.size = FIRST + values.length, this.empty = !values.length;
    this.index = new Map(values.map((value, n) => [value, n + FIRST]));
  }
  code(value) {
    if (!this.empty) checkType(value, this.text);
    return this.index.get(value) ?? UNKNOWN;
  }
  codeOfHash(hash) { return this.index.get(BigInt.asIntN(64, hash)) ?? UNKNOWN; }
}

export class Hash {
  constructor({rows, text}) { this.rows = BigInt(rows), this.text = text, this.size = FIRST + rows; }
  code(value) {
    checkType(value, this.text);
    return Number((this.text ? blake(value) : splitmix(BigInt.asUintN(64, BigInt(value)))) % this.rows) + FIRST;
  }
  codeOfHash(hash) { return Number(splitmix(hash) % this.rows) + FIRST; }
}

export class Bucket {
  constructor({edges}) { this.edges = edges, this.size = FIRST + edges.length + 1; }
  code(number) { return Number.isNaN(number) ? MISSING : bisect(this.edges, number, true) + FIRST; }
}

export class Scale {
  constructor(fields) { Object.assign(this, fields), this.size = 0; }
  scale(x) {
    if (Number.isNaN(x)) return 0;
    if (this.low !== null) x = Math.min(Math.max(x, this.low), this.high);
    if (this.form === "quantile") x = (this.#share(x) - 0.5) * Math.sqrt(12);
    else if (this.form === "log") x = (Math.sign(x) * Math.log1p(Math.abs(x)) - this.mean) / this.std;
    else x = (x - this.mean) / this.std;
    return Math.fround(x);
  }
  #share(x) {
    const {knots, shares} = this, n = bisect(knots, x, true);
    if (n === 0 || n === knots.length) return shares[n === 0 ? 0 : n - 1];
    return shares[n - 1] + (shares[n] - shares[n - 1]) / (knots[n] - knots[n - 1]) * (x - knots[n - 1]);
  }
}

function checkType(value, text) {
  if (typeof value === "string" !== text) throw new Error(`expected ${text ? "text" : "whole numbers"}, as in training; received ${JSON.stringify(value)}`);
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
export function toList(value, separator) {
  if (value === null || value === undefined) return [];
  const held = separator !== null && typeof value === "string" ? value.split(separator) : value;
  if (!Array.isArray(held)) throw new Error(`expected lists; received ${JSON.stringify(value)}`);
  if (separator === null) return held.filter((one) => one !== null).map(toId);
  return held.filter((one) => one !== null).map((one) => String(one).trim()).filter((one) => one !== "");
}

/** ISO 8601 or ms since 1970 → ms; without a zone it is UTC. */
export function toTime(value) {
  if (Number.isSafeInteger(value)) return value;
  const found = /^(\d{4}-\d{2}-\d{2})(?:[T ](\d{2}:\d{2})(:\d{2}(?:\.\d{1,6})?)?(Z|[+-]\d{2}:\d{2})?)?$/.exec(value);
  const ms = found ? Date.parse(`${found[1]}T${found[2] ?? "00:00"}${found[3] ?? ":00"}${found[4] ?? "Z"}`) : NaN;
  if (Number.isNaN(ms)) throw new Error(`expected ISO 8601 or whole ms since 1970; received ${JSON.stringify(value)}`);
  return ms;
}

export const timeText = (value) => /^-?\d+$/.test(value) ? Number(value) : toTime(value);
const timeNumber = (value) => value === null || value === undefined ? NaN : timeText(value);

function toVector(value, {dim, normalise}) {
  if (value === null || value === undefined) return null;
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

const none = () => ({keys: {}, lists: {}, numbers: {}, vectors: {}});

export class Encoders {
  constructor(features, layout, fitted) { Object.assign(this, {features, layout, fitted}); }
  codes(name, values) {
    const encoder = this.fitted[this.layout.encoders[name]];
    return values.map((value) => value === null ? MISSING : encoder.code(value));
  }
  #encode(name, value) {
    const feature = this.features[name], encoder = this.fitted[name];
    switch (feature.kind) {
      case "id": return this.codes(name, [toId(value)])[0];
      case "ids": return {values: this.codes(name, toList(value, feature.separator)).slice(0, feature.last)};
      case "number": return encoder.scale(toNumber(value));
      case "bucket": return encoder.code(toNumber(value));
      case "vector": return toVector(value, feature);
      default: return undefined; // a time, which no network reads
    }
  }
  #key(name, value) {
    const {kind} = this.features[name], code = kind === "bucket" ? this.#encode(name, value) : null;
    return code === null ? hashValue(toId(value)) : code === MISSING ? 0n : splitmix(BigInt(code));
  }
  /** Encode the features of a placement that are read from columns, value by value: encoded values, operands by part. */
  plain(placement, columns) {
    const encoded = {}, operands = none(), {keys, lists, numbers} = this.layout.operands[placement];
    for (const name of this.layout.plain[placement]) {
      const value = columns[this.layout.columns[name]] ?? null, {kind, separator, last} = this.features[name];
      encoded[name] = this.#encode(name, value);
      if (kind === "vector") operands.vectors[name] = encoded[name];
      if (keys.includes(name)) operands.keys[name] = this.#key(name, value);
      if (lists.includes(name)) operands.lists[name] = toList(value, separator).map(hashValue).slice(0, last);
      if (numbers.includes(name)) operands.numbers[name] = kind === "time" ? timeNumber(value) : toNumber(value);
    }
    return {encoded, operands};
  }
  /** A derived feature's hash or number → its code or scaled number. */
  derived(name, value) {
    const encoder = this.fitted[name];
    if (this.features[name].kind === "pair") return value === 0n ? MISSING : encoder.codeOfHash(value);
    return encoder instanceof Bucket ? encoder.code(value) : encoder.scale(value);
  }
  /** Encoded values by name → the row of a placement. */
  row(placement, encoded) {
    return Object.fromEntries(Object.entries(this.layout.rows[placement]).map(([part, names]) => [part, names.map((name) => encoded[name])]));
  }
}
