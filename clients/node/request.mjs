// A request → encoded rows: of its query, of the events that stages attend to, of its candidates.
import {hashValue} from "./arrays.mjs";
import {bisect, timeText, toId, toNumber, toTime} from "./encoders.mjs";

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
  if (value === null || value === undefined) return [];
  const held = separator !== null && typeof value === "string" ? value.trim() === "" ? [] : value.split(separator) : value;
  return held.map((one) => typeof one === "string" ? one.trim() || null : one);
}

export class RequestEncoder {
  constructor(bundle, deriver) { Object.assign(this, bundle, {deriver}); }
  encode(request) {
    const odd = Object.keys(request).find((key) => !FIELDS.includes(key)), {user, context = {}, candidates} = request;
    if (odd || !user || !candidates?.length) throw new Error(odd ? `this reader knows no '${odd}'` : "user and candidates: required");
    const time = request.time == null ? Date.now() : toTime(request.time), {id = null, ...others} = user, key = this.manifest.data.user;
    const columns = {...others, [key]: id, ...context}, missing = [], histories = {};
    this.#check("user", "id" in user ? {...others, [key]: id} : others, key, missing);
    this.#check("context", context, key, missing);
    for (const [name, facts] of Object.entries(this.layout.histories)) histories[name] = this.#history(name, facts, columns, time);
    const query = this.#query(columns, histories, time, candidates.length), attended = Object.keys(histories).filter((n) => this.layout.histories[n].attended);
    return {time, missing, query, ...this.#candidates(candidates, missing), events: Object.fromEntries(attended.map((name) => {
      const {positions, codes, beside, ages} = histories[name], id = this.layout.histories[name].item;
      const rows = positions.map((at, n) => {
        const row = at < 0 ? this.#unknown(id, codes[n]) : this.record(at);
        return {...row, ids: [...row.ids, ...Object.values(beside).map((held) => held.codes[n])]};
      });
      return [name, {rows, ages: ages.map((age) => Math.fround(Math.log2(1 + Math.max(age, 0) / 1000)))}];
    }))};
  }
  #check(side, given, key, missing) {
    const wanted = this.layout.request[side], odd = Object.keys(given).find((column) => !wanted.includes(column) && column !== key);
    if (odd) throw new Error(`${side}: the bundle knows no '${odd}' here`);
    missing.push(...wanted.filter((column) => !(column in given)).map((column) => `${side}.${column === key ? "id" : column}`).sort());
  }
  #history(name, facts, columns, time) {
    const {column, times, separator, timed, last, after, every, half_life: half} = facts;
    const own = Object.fromEntries(facts.beside.map((feature) => [feature, this.layout.columns[feature]]));
    let events;
    if (column) {
      const lists = Object.fromEntries([column, ...(times ? [times] : []), ...Object.values(own)].map((c) => [c, toEvents(columns[c], separator)]));
      if (new Set(Object.values(lists).map((list) => list.length)).size > 1) throw new Error(`user: the lists of '${name}' differ in length`);
      const toItem = (id) => !this.items.text && separator && typeof id === "string" ? Number(id) : toId(id);
      events = lists[column].map((id, n) => ({id: toItem(id), time: times && id !== null ? timeText(lists[times][n]) : null, beside: mapped(own, (c) => lists[c][n])}));
      events = events.filter((event) => event.id !== null);
      if (times) {
        const cut = (every ? floorTime(time, every, this.manifest.data.timezone) : time) - after;
        events = events.sort((a, b) => a.time - b.time).slice(0, bisect(events.map((event) => event.time), cut));
      }
    } else {
      events = (columns[name] ?? []).map((event) => {
        const held = event !== null && typeof event === "object" ? event : {id: event};
        if (timed && held.time === undefined) throw new Error(`user.${name}: the times of events are needed`);
        return {id: toId(held.id), time: timed ? toTime(held.time) : null, beside: mapped(own, (c) => held[c] ?? null)};
      });
    }
    events = events.slice(-last);
    const ids = events.map(({id}) => id), ages = events.map((event) => event.time === null ? 0 : time - event.time);
    return {
      codes: this.encoders.codes(name, ids), positions: ids.map((id) => this.items.index.get(id) ?? -1), keys: ids.map(hashValue), ages,
      weights: half ? ages.map((age) => Math.fround(2 ** -Math.fround(Math.min(Math.max(age, 0) / half, 60)))) : null,
      beside: mapped(own, (_, feature) => {
        const values = events.map((event) => toId(event.beside[feature]));
        return {codes: this.encoders.codes(feature, values), keys: values.map(hashValue)};
      }),
    };
  }
  #unknown(id, code) {
    const {idCount, numberCount, lists, vectors} = this.items, ids = Array(idCount).fill(0), at = this.layout.rows.item.ids.indexOf(id);
    if (at >= 0) ids[at] = code;
    return {ids, numbers: Array(numberCount).fill(0), lists: lists.map(() => ({values: []})), vectors: vectors.map(() => null)};
  }
  /** The encoded row of a known item. */
  record(at) {
    const {ids, numbers, idCount, numberCount, lists, vectors} = this.items, slice = (held, count) => [...held.subarray(at * count, (at + 1) * count)];
    return {ids: slice(ids, idCount), numbers: slice(numbers, numberCount), lists: lists.map((list) => ({values: list(at)})), vectors: vectors.map((vector) => vector(at))};
  }
  #recordOperands(at) {
    const {keys, keyLists, operandNumbers, vectors} = this.items;
    return {keys: mapped(keys, (part) => part[at]), lists: mapped(keyLists, (part) => part(at)), numbers: mapped(operandNumbers, (part) => part[at]),
      vectors: Object.fromEntries(this.layout.rows.item.vectors.map((name, n) => [name, vectors[n](at)]))};
  }
  #query(columns, histories, time, size) {
    const {encoded, operands} = this.encoders.plain("query", columns);
    for (const [name, {codes, keys, weights, beside}] of Object.entries(histories)) {
      encoded[name] = {values: codes, weights}, operands.lists[name] = keys;
      for (const [f, held] of Object.entries(beside)) encoded[f] = {values: held.codes, weights}, operands.lists[f] = held.keys;
    }
    for (const [name, [history, feature]] of Object.entries(this.layout.attributes)) encoded[name] = this.#attribute(histories[history], feature);
    for (const operand of Object.keys(this.layout.sides).filter((o) => o.includes("."))) {
      const [history, feature] = operand.split("."), {positions, weights} = histories[history], {keys, keyLists} = this.items;
      if (feature in keys) operands.lists[operand] = positions.map((at) => at < 0 ? 0n : keys[feature][at]);
      else if (feature in keyLists) operands.lists[operand] = positions.flatMap((at) => at < 0 ? [] : keyLists[feature](at));
      else operands.vectors[operand] = this.#mean(feature, positions, weights);
    }
    Object.assign(encoded, this.deriver.all("query", this.encoders, operands, null, time, size));
    return {row: this.encoders.row("query", encoded), operands};
  }
  #attribute({positions, weights}, feature) {
    const {ids, lists} = this.layout.rows.item, n = ids.indexOf(feature);
    const codes = positions.map((at) => n >= 0 ? [at < 0 ? 0 : this.items.ids[at * this.items.idCount + n]] : at < 0 ? [] : this.items.lists[lists.indexOf(feature)](at));
    return {values: codes.flat(), weights: weights && codes.flatMap((some, event) => some.map(() => weights[event]))};
  }
  #mean(feature, positions, weights) {
    const read = this.items.vectors[this.layout.rows.item.vectors.indexOf(feature)];
    const found = positions.map((at, n) => [at < 0 ? null : read(at), weights?.[n] ?? 1]).filter(([vector]) => vector);
    const total = found.reduce((sum, [, weight]) => sum + weight, 0);
    return found.length ? Float32Array.from(found[0][0], (_, i) => found.reduce((sum, [vector, weight]) => sum + vector[i] * weight, 0) / total) : null;
  }
  #candidates(given, missing) {
    const rows = given.map((one) => typeof one === "object" ? one : {id: one}), unknown = [], known = [], {item, cross, values} = this.layout.request;
    if (new Set(rows.map(({id}) => id)).size < rows.length) throw new Error("candidates: one is there twice");
    for (const {id, ...columns} of rows) {
      if (typeof id !== (this.items.text ? "string" : "number")) throw new Error(`candidates: ids are of another type than the bundle's: ${id}`);
      const odd = Object.keys(columns).find((c) => ![...item, ...cross, ...values].includes(c));
      if (odd) throw new Error(`candidates: the bundle knows no '${odd}' here`);
      const at = this.items.index.get(id), described = at === undefined && item.some((column) => column in columns);
      if (at === undefined && !described) unknown.push(id);
      else known.push({id, columns, at, ...(described ? this.#describe(id, columns) : {record: this.record(at), operands: this.#recordOperands(at)})});
    }
    missing.push(...cross.filter((c) => known.some(({columns}) => !(c in columns))).map((c) => `cross.${c}`));
    return {known, unknown};
  }
  #describe(id, columns) {
    const {encoded, operands} = this.encoders.plain("item", {...columns, [this.manifest.data.item]: id});
    for (const placement of ["item", "snapshot"]) Object.assign(encoded, this.deriver.all(placement, this.encoders, null, operands, null));
    const [row, snapshot] = ["item", "snapshot"].map((placement) => this.encoders.row(placement, encoded));
    return {record: mapped(row, (held, part) => [...held, ...snapshot[part]]), operands};
  }
  /** The encoded row of a candidate's crosses. */
  crossRow({query, time}, {columns, operands}) {
    const {encoded} = this.encoders.plain("cross", columns);
    return this.encoders.row("cross", {...encoded, ...this.deriver.all("cross", this.encoders, query.operands, operands, time)});
  }
  /** One of the data's columns of a candidate. */
  number(name, {at, columns}) {
    const value = at !== undefined && name in this.items.columns ? this.items.columns[name][at] : toNumber(columns[name]);
    if (!Number.isFinite(value)) throw new Error(`candidates: no number '${name}', by which candidates are ordered`);
    return Math.fround(value);
  }
}
