// A request → encoded rows: of its query, of the events that stages attend to, of its candidates. A row has values by feature.
import {COLUMN_KINDS, listOf, toId, toNumber, toTime} from "./encoders.mjs";
import {COMPARING_KINDS, DERIVED_KINDS} from "./derive.mjs";

const FIELDS = ["user", "context", "time", "candidates", "keep", "trace"];
const mapped = (held, change) => Object.fromEntries(Object.entries(held).map(([name, value]) => [name, change(value, name)]));

/** The begin of the step of a grid that a time lies in; steps begin at midnight in a time zone. */
function floorTime(time, every, timeZone) {
  const format = new Intl.DateTimeFormat("en-CA", {timeZone, year: "numeric", month: "2-digit", day: "2-digit"});
  const day = (ms) => Date.parse(format.format(ms)) / 864e5, wanted = day(time) - day(time) % Math.max(every / 864e5, 1);
  let low = (wanted - 2) * 864e5, high = (wanted + 2) * 864e5;
  while (low < high) { // the first moment of that day
    const middle = Math.floor((low + high) / 2);
    if (day(middle) < wanted) low = middle + 1; else high = middle;
  }
  return every >= 864e5 ? low : low + Math.floor((time - low) / every) * every;
}

/** The values of a list of events, nulls kept. */
function toEvents(value, separator) {
  const held = separator !== null && typeof value === "string" ? value.trim() === "" ? [] : value.split(separator) : value ?? [];
  return held.map((one) => typeof one === "string" ? one.trim() || null : one);
}

export class RequestEncoder {
  constructor(bundle) { Object.assign(this, {bundle}, bundle); }
  encode(request) {
    const odd = Object.keys(request).find((key) => !FIELDS.includes(key)), {user, context = {}, candidates} = request;
    if (odd || !user || !candidates?.length) throw new Error(odd ? `this reader knows no '${odd}'` : "user and candidates: required");
    const time = request.time == null ? Date.now() : toTime(request.time), {id, ...others} = user, key = this.manifest.data.user;
    const columns = "id" in user ? {...others, [key]: id} : others, missing = [];
    this.#check("user", columns, key, missing), this.#check("context", context, key, missing);
    const histories = mapped(this.layout.histories, (facts, name) => this.#history(name, facts, {...columns, ...context}, time));
    const query = this.#query({...columns, ...context}, histories, time, candidates.length);
    return {query, histories, ...this.#candidates(candidates, missing, query, time), missing};
  }
  #check(side, given, key, missing) {
    const wanted = this.layout.request[side], odd = Object.keys(given).find((column) => !wanted.includes(column) && column !== key);
    if (odd) throw new Error(`${side}: the bundle knows no '${odd}' here`);
    missing.push(...wanted.filter((column) => !(column in given)).map((column) => `${side}.${column === key ? "id" : column}`).sort());
  }
  /** The features of a placement that are read from columns. */
  #plain(placement, columns) {
    return Object.fromEntries(this.layout.plain[placement].map((facts) =>
      [facts.feature, COLUMN_KINDS[facts.kind](facts, this.encoders[facts.encoder], columns[facts.column] ?? null)]));
  }
  /** Add the derived features of a placement to a row; of `sides` operands are taken; `time` NaN for before all. */
  #derive(placement, row, sides, time = NaN, size = NaN) {
    for (const facts of this.layout.derived[placement].filter(({kind}) => !COMPARING_KINDS.includes(kind))) {
      const {feature, kind, of} = facts, encoder = this.encoders[feature];
      const value = DERIVED_KINDS[kind](facts, of.map(([side, operand]) => sides[side][operand]), time, size);
      row[feature] = {encoded: kind === "pair" ? encoder.codeOfHash(value) : encoder.encode(value)};
    }
    return row;
  }
  /** The last events of a history, oldest first: {id, time, beside}. */
  #events(name, {listed, column, times, separator, last, after, every, beside}, columns, time) {
    const given = listed ? [] : (columns[name] ?? []).map((event) => event !== null && typeof event === "object" ? event : {id: event});
    const read = (key) => listed ? toEvents(columns[key], separator) : given.map((event) => event[key] ?? null);
    const ids = read(column), dates = times && read(times), others = mapped(beside, (own) => read(own.column));
    if ([dates ?? ids, ...Object.values(others)].some((list) => list.length !== ids.length)) throw new Error(`user: the lists of '${name}' differ in length`);
    const toItem = (id) => !this.items.text && separator && typeof id === "string" ? Number(id) : toId(id);
    const toEvent = (id, n) => ({id: toItem(id), time: dates && (id === null ? null : toTime(dates[n], listed)), beside: mapped(others, (list) => list[n])});
    const events = ids.map(toEvent).filter(({id}) => !listed || id !== null);
    if (!listed || !times) return events.slice(-last);
    const cut = (every ? floorTime(time, every, this.manifest.data.timezone) : time) - after;
    return events.filter((event) => event.time < cut).sort((a, b) => a.time - b.time).slice(-last);
  }
  /** A history's values, its own and those beside it, and the rows and ages of its events. */
  #history(name, facts, columns, time) {
    const events = this.#events(name, facts, columns, time), ages = events.map((event) => event.time === null ? 0 : Math.max(time - event.time, 0));
    const weights = facts.half_life ? ages.map((age) => Math.fround(2 ** -Math.min(age / facts.half_life, 60))) : null;
    const old = {time: ages.map((age) => age / 864e5), events: ages.map((_, n) => ages.length - 1 - n)};
    const list = (encoder, ids) => ({...listOf(this.encoders[encoder], ids, weights), ages: old});
    const own = list(facts.encoder, events.map(({id}) => id));
    const beside = mapped(facts.beside, ({encoder}, feature) => list(encoder, events.map((event) => toId(event.beside[feature]))));
    const records = events.map(({id}) => this.bundle.record(this.items.find(id)));
    const rows = records.map((row, n) => ({...row, ...mapped({[facts.item]: own, ...beside}, ({encoded}) => ({encoded: encoded.codes[n]}))}));
    return {values: {[name]: own, ...beside}, weights, records, rows, old, ages: ages.map((age) => Math.fround(Math.log2(1 + age / 1000)))};
  }
  #query(columns, histories, time, size) {
    const row = Object.assign(this.#plain("query", columns), ...Object.values(histories).map(({values}) => values));
    for (const {name, is, history, feature} of this.layout.gathered) {
      const {records, weights, old} = histories[history];
      row[name] = GATHERED[is](records.map((record) => record[feature]), weights, old);
    }
    return this.#derive("query", row, {query: row}, time, size);
  }
  #candidates(given, missing, query, time) {
    const unknown = [], known = [], {item, cross, values} = this.layout.request, seen = new Set();
    for (const one of given) {
      const {id, ...columns} = typeof one === "object" ? one : {id: one};
      if (seen.size === seen.add(id).size) throw new Error(`candidates: ${id} is there twice`);
      if (typeof id !== (this.items.text ? "string" : "number")) throw new Error(`candidates: ids are of another type than the bundle's: ${id}`);
      const odd = Object.keys(columns).find((c) => ![...item, ...cross, ...values].includes(c));
      if (odd) throw new Error(`candidates: the bundle knows no '${odd}' here`);
      const at = this.items.find(toId(id));
      if (at < 0 && !item.some((column) => column in columns)) { unknown.push(id); continue; }
      const row = at < 0 ? this.#describe(id, columns) : this.bundle.record(at);
      known.push({id, columns, at, row, cross: this.#plain("cross", columns)});
    }
    const sides = known.map(({row, cross}) => ({query, item: row, snapshot: row, cross}));
    for (const one of sides) this.#derive("cross", one.cross, one, time);
    this.#compare(sides, time);
    missing.push(...cross.filter((c) => known.some(({columns}) => !(c in columns))).map((c) => `cross.${c}`));
    return {known, unknown};
  }
  /** Add what compares a number of a candidate with that of all. */
  #compare(sides, time) {
    for (const facts of this.layout.derived.cross.filter(({kind}) => COMPARING_KINDS.includes(kind))) {
      const [[placement, operand]] = facts.of, made = this.layout.derived[placement].find(({feature}) => feature === operand);
      const number = (one) => made ? DERIVED_KINDS[made.kind](made, made.of.map(([side, name]) => one[side][name]), time) : one[placement][operand].number;
      const numbers = sides.map(number), encoder = this.encoders[facts.feature];
      sides.forEach(({cross}, n) => { cross[facts.feature] = {encoded: encoder.encode(DERIVED_KINDS[facts.kind](facts, [numbers[n], numbers]))}; });
    }
  }
  #describe(id, columns) {
    const row = this.#plain("item", {...columns, [this.manifest.data.item]: id});
    for (const placement of ["item", "snapshot"]) this.#derive(placement, row, {item: row});
    return row;
  }
  /** One of the data's columns of a candidate. */
  number(name, {at, columns}) {
    const value = at >= 0 && name in this.columns ? this.columns[name][at] : toNumber(columns[name]);
    if (!Number.isFinite(value)) throw new Error(`candidates: no number '${name}', by which candidates are ordered`);
    return value;
  }
}

/** What is taken of the items of a history: of a feature's values, and the weights and ages of the events. */
const GATHERED = {
  hashes: (values, weights, old) => ({hashes: values.flatMap(({hashes}) => hashes),
    ages: mapped(old, (ages) => values.flatMap(({hashes}, n) => hashes.map(() => ages[n])))}),
  codes: (values, weights) => {
    const codes = values.map(({encoded}) => encoded.codes ?? [encoded]);
    return {encoded: {codes: codes.flat(), weights: weights && codes.flatMap((some, n) => some.map(() => weights[n]))}};
  },
  vector: (values, weights) => {
    const found = values.map(({encoded}, n) => [encoded, weights?.[n] ?? 1]).filter(([vector]) => vector);
    const total = found.reduce((sum, [, weight]) => sum + weight, 0);
    const mean = (_, i) => found.reduce((sum, [vector, weight]) => sum + vector[i] * weight, 0) / total;
    return {encoded: found.length ? Float32Array.from(found[0][0], mean) : null};
  },
};
