// The page of a bundle: slots filled one after the other, by value and what is on the page already, under rules.
import {hashValue} from "./arrays.mjs";

const ZERO = hashValue(0), LEAST = 1e-6, REAL = 2 ** 16;
const dot = (a, b) => a.reduce((sum, x, n) => sum + x * b[n], 0);

/** Vectors of length 1, or 0. */
function unit(vector) {
  const squares = dot(vector, vector), length = Number.isFinite(squares) && squares > 0 ? Math.sqrt(squares) : 0;
  return vector.map((x) => (length ? x / length : 0));
}

/** The values of a feature, that of a number is whether it is above 0; `each` of them, or whether there is one. */
function valuesOf(row, numbers, of, each) {
  const {hashes, number} = row[of];
  if (numbers.includes(of)) return number > 0 ? [0n] : [];
  const known = [...new Set(hashes.filter((hash) => hash !== 0n))];
  return each ? known : known.some((hash) => hash !== ZERO) ? [0n] : [];
}

/** What similarity is of: unit vectors; of ids and lists which values there are. */
export function pageVectors(rows, by, numbers, width) {
  if (rows.every((row) => row[by].hashes === undefined)) return rows.map((row) => unit(Array.from(row[by].encoded ?? Array(width).fill(0))));
  const held = rows.map((row) => valuesOf(row, numbers, by, true)), all = [...new Set(held.flat())];
  return held.map((own) => unit(all.map((value) => (own.includes(value) ? 1 : 0))));
}

/** The scores of a method for the next slot, and `place`, which puts a candidate on the page. */
function scorer({method, strength, lambda}, value, vectors) {
  const all = value.map((_, n) => n), state = {score: [...value], place() {}};
  if (method === "mmr") {
    const weight = lambda ?? 0.7, greatest = Math.max(...value.map(Math.abs)), worth = value.map((v) => (greatest ? v * (weight / greatest) : 0));
    const near = value.map(() => -Infinity);
    state.score = [...worth];
    state.place = (at) => all.forEach((n) => {
      near[n] = Math.max(near[n], dot(vectors[n], vectors[at])), state.score[n] = worth[n] - (1 - weight) * near[n];
    });
  }
  if (method === "dpp") {
    const share = strength ?? 0.5, greatest = Math.max(0, ...value), least = LEAST * greatest;
    const quality = value.map((v) => (least > 0 ? Math.max(v, least) / greatest : 1)), rows = [];
    state.score = quality.map((q) => q * q);
    state.place = (at) => { // a row of the Cholesky factor
      const root = state.score[at] ** -0.5;
      const row = all.map((n) => (quality[n] * quality[at] * share * dot(vectors[n], vectors[at]) - rows.reduce((sum, one) => sum + one[at] * one[n], 0)) * root);
      rows.push(row), row.forEach((x, n) => { state.score[n] -= x * x; });
    };
  }
  return state;
}

/** What a rule says of the next slot: which candidates break it there, or need not be spared for a later one. */
function tracker(rule, rules, values, slots) {
  const within = Math.min(rule.within ?? slots, slots), placed = [], has = values.map((own) => own.length > 0);
  const fit = has.map((own) => own !== rule.never);
  const alike = rules.filter((other) => other.slot && other.slot <= slots && other.of === rule.of && other.never === rule.never).map((other) => other.slot - 1);
  return {
    place: (at) => { placed.push(at); },
    breaks: (slot) => {
      if (rule.at_most) {
        const before = placed.slice(Math.max(slot + 1 - within, 0)).flatMap((at) => values[at]);
        return [(n) => values[n].some((value) => before.filter((other) => other === value).length >= rule.at_most), true];
      }
      if (rule.at_least) {
        const end = Math.max(slot, within - 1), before = placed.slice(Math.max(end - within + 1, 0));
        const short = Math.min(rule.at_least, within) - before.filter((at) => has[at]).length - (end - slot);
        return [(n) => short > (has[n] ? 1 : 0), end === slot];
      }
      if (slot === rule.slot - 1) return [(n) => !fit[n], true];
      const free = fit.filter((own, n) => own && !placed.includes(n)).length, needed = new Set(alike.filter((other) => other > slot)).size;
      const spare = slot > rule.slot - 1 || alike.includes(slot) || free > needed;
      return [(n) => !spare && fit[n], false];
    },
  };
}

/** Searches pages by what rules see of candidates. Costs: slots that break a rule, then those that break each. */
class Search {
  constructor(rules, values, slots) {
    const base = BigInt(slots + 1);
    Object.assign(this, {rules, slots, values, unit: base ** BigInt(rules.length), checks: values[0].length > 8 ? 2500 : 20000, exact: new Map(), low: new Map()});
    this.weights = rules.map((_, r) => base ** BigInt(rules.length - 1 - r));
    this.seen = rules.map((rule, r) => {
      const times = new Map();
      for (const value of values[r].flat()) times.set(value, (times.get(value) ?? 0) + 1);
      return values[r].map((own) => rule.at_most ? own.filter((value) => times.get(value) > rule.at_most) : (own.length > 0) !== Boolean(rule.never) ? [0n] : []);
    });
    const signs = values[0].map((_, n) => this.seen.map((of) => [...of[n]].sort().join()).join("|")), kinds = [...new Set(signs)];
    this.typeOf = signs.map((sign) => kinds.indexOf(sign)), this.first = kinds.map((sign) => signs.indexOf(sign));
    this.counts = kinds.map((_, kind) => this.typeOf.filter((one) => one === kind).length);
    this.tail = Math.max(0, ...rules.filter((rule) => !rule.slot && (rule.within ?? slots) < slots).map((rule) => rule.within - 1));
  }
  has(r, kind) { return this.seen[r][this.first[kind]]; }
  cost(kind, page) {
    let cost = 0n;
    this.rules.forEach((rule, r) => {
      const within = Math.min(rule.within ?? this.slots, this.slots), before = page.slice(Math.max(page.length + 1 - within, 0)), own = this.has(r, kind);
      const often = () => before.flatMap((one) => this.has(r, one));
      const broken = rule.slot ? rule.slot - 1 === page.length && !own.length
        : rule.at_most ? own.some((value) => often().filter((other) => other === value).length >= rule.at_most)
        : page.length + 1 >= within && before.filter((one) => this.has(r, one).length).length + (own.length ? 1 : 0) < Math.min(rule.at_least, within);
      if (broken) cost += this.weights[r];
    });
    return cost && cost + this.unit;
  }
  /** The least cost of the slots after a page if it is below a bound, else a number that is not. */
  least(counts, page, bound) {
    if (page.length === this.slots || bound <= 0n) return 0n;
    const key = `${counts}/${this.tail ? page.slice(-this.tail) : ""}`;
    if (this.exact.has(key)) return this.exact.get(key);
    if ((this.low.get(key) ?? 0n) >= bound) return this.low.get(key);
    const kinds = counts.map((_, kind) => kind).filter((kind) => counts[kind]);
    if ((this.checks -= kinds.length) < 0) throw new Error("a page takes too long to search");
    const costs = kinds.map((kind) => [this.cost(kind, page), kind]).sort(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0));
    let best = bound;
    for (const [cost, kind] of costs) {
      if (cost >= best || best === 0n) break;
      const whole = cost + this.least(without(counts, kind), [...page, kind], best - cost);
      if (whole < best) best = whole;
    }
    (best < bound ? this.exact : this.low).set(key, best);
    return best;
  }
}
const without = (counts, kind) => counts.map((count, n) => count - (n === kind ? 1 : 0));

/** The positions of the candidates that are shown, slot by slot. */
export function fillPage(page, value, vectors, rows, numbers, keep) {
  const slots = Math.min(keep, value.length), values = page.rules.map((rule) => rows.map((row) => valuesOf(row, numbers, rule.of, Boolean(rule.at_most))));
  const fill = (costsOf, place) => {
    const score = scorer(page, value, vectors), shown = [];
    while (shown.length < slots) {
      const free = value.map((_, n) => n).filter((n) => !shown.includes(n)), costs = costsOf(free, shown), least = costs.reduce((a, b) => (b < a ? b : a));
      const at = free.filter((_, n) => costs[n] === least).reduce((best, n) => (score.score[n] > score.score[best] ? n : best));
      place(at), shown.push(at);
      if (shown.length < slots) score.place(at);
    }
    return shown;
  };
  const rules = page.rules.map((rule, r) => tracker(rule, page.rules, values[r], slots)), first = fill((free, shown) => {
    const said = rules.map((rule) => rule.breaks(shown.length));
    return free.map((n) => said.reduce((sum, [broken, now], r) => sum + (broken(n) ? 2 ** (rules.length - 1 - r) * (now ? REAL : 1) : 0), 0));
  }, (at) => rules.forEach((rule) => rule.place(at)));
  if (!rules.length || !slots) return first;
  const search = new Search(page.rules, values, slots), kinds = first.map((n) => search.typeOf[n]);
  const known = kinds.reduce((sum, kind, slot) => sum + search.cost(kind, kinds.slice(0, slot)), 0n);
  try { // for a page that breaks less
    let left = search.least(search.counts, [], known), counts = search.counts, made = [];
    if (left >= known) return first;
    return fill((free) => {
      const costs = new Map(counts.map((_, kind) => [kind, search.cost(kind, made)])), sorted = [...new Set(costs.values())].sort((a, b) => (a < b ? -1 : 1));
      const completes = (kind, cost) => counts[kind] && cost <= left && search.least(without(counts, kind), [...made, kind], left - cost + 1n) <= left - cost;
      for (const cost of sorted) {
        const allowed = counts.map((_, kind) => kind).filter((kind) => costs.get(kind) === cost && completes(kind, cost));
        if (allowed.length) return free.map((n) => (allowed.includes(search.typeOf[n]) ? 0 : 1));
      }
      throw new Error("no page costs so little");
    }, (at) => {
      const kind = search.typeOf[at];
      left -= search.cost(kind, made), counts = without(counts, kind), made = [...made, kind];
    });
  } catch {
    return first;
  }
}
