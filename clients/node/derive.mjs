// Derived features: crosses, matches, priors and ages, of one query, one item, or a pair of both.
import {mix} from "./arrays.mjs";
import {bisect} from "./encoders.mjs";

const finite = (x) => Number.isFinite(x) ? x : NaN;

/** Derived features by their kind: their facts and operands, the request's time and size → a hash, or a number (NaN for none). */
export const DERIVED_KINDS = {
  age: ({then}, [{number}], time) => Math.max(((then ?? time) - number) / 864e5, 0),
  candidates: (facts, operands, time, size) => size,
  contains: (facts, [held, wanted]) => Number(matches(held, wanted) > 0),
  cosine: (facts, [a, b]) => cosine(a.encoded, b.encoded),
  count: (facts, [held, wanted]) => matches(held, wanted),
  pair: (facts, operands) => mixOf(operands),
  prior: ({keys, values, other}, operands) => {
    const key = mixOf(operands), at = bisect(keys, key);
    return key === 0n ? NaN : keys[at] === key ? values[at] : other ?? NaN;
  },
  product: (facts, [a, b]) => finite(a.number * b.number),
  ratio: (facts, [a, b]) => finite(a.number / b.number),
  since: ({measure}, [held, wanted]) => {
    const ages = held.ages[measure].filter((_, n) => held.hashes[n] !== 0n && wanted.hashes.includes(held.hashes[n]));
    return ages.length ? Math.min(...ages) : NaN;
  },
  share: (facts, [number, numbers]) => share(number, numbers),
  within: ({measure}, [number, numbers]) => within(measure, number, numbers),
};

/** The kinds that compare a number of a candidate with that of all candidates. */
export const COMPARING_KINDS = ["share", "within"];

const mixOf = (operands) => mix(operands.map(({hashes}) => hashes[0]));

/** How often a list holds some values. */
function matches({hashes: held}, {hashes: wanted}) {
  return held.reduce((sum, one) => sum + (one === 0n ? 0 : wanted.filter((other) => other === one).length), 0);
}

/** A number beside those of all candidates, its own among them. */
function within(measure, number, numbers) {
  const known = numbers.filter((one) => !Number.isNaN(one)).sort((a, b) => a - b), count = known.length;
  if (Number.isNaN(number)) return NaN;
  const below = (holds) => known.filter(holds).length;
  if (measure === "rank") return (below((one) => one < number) + below((one) => one <= number)) / (2 * count);
  return finite(number / ((known[(count - 1) >> 1] + known[count >> 1]) / 2));
}

/** A number's part of the sum of those of all candidates, its own among them; numbers below 0 are missing. */
function share(number, numbers) {
  const sum = numbers.reduce((all, one) => one > 0 ? all + one : all, 0);
  return number >= 0 && sum > 0 ? number / sum : NaN;
}

function cosine(a, b) {
  if (!a || !b) return NaN;
  const dot = (x, y) => x.reduce((sum, value, n) => sum + value * y[n], 0), squares = dot(a, a) * dot(b, b);
  return squares === 0 ? NaN : Math.fround(dot(a, b) / Math.sqrt(squares));
}
