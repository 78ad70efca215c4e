// The stages of a bundle: dense inputs, graphs, calibration, values and cuts.
import {join} from "node:path";
import {fromHalf, roundEven, roundToHalf} from "./arrays.mjs";
import ort from "onnxruntime-node";
import {Deriver} from "./derive.mjs";
import {parseFormula} from "./formula.mjs";
import {RequestEncoder} from "./request.mjs";

const tensor = (data, ...dims) => new ort.Tensor("float32", data, dims);
const total = (parts) => parts.reduce((sum, {width}) => sum + width, 0);

/** The dense inputs of rows, one after another. */
function dense(parts, rows, tables) {
  const out = new Float32Array(rows.length * total(parts));
  let at = 0;
  for (const row of rows) for (const part of parts) PARTS[part.is](part, row, tables, out, at), at += part.width;
  return out;
}
function add({data}, row, width, weight, out, at) {
  for (let i = 0; i < width; i++) out[at + i] += weight * data[row * width + i];
}
const PARTS = {
  id: ({width, offset, at}, {ids}, tables, out, to) => add(tables[width], ids.at(at) + offset, width, 1, out, to),
  number: ({at}, {numbers}, tables, out, to) => { out[to] = numbers[at]; },
  list: ({width, offset, mean, at}, {lists}, tables, out, to) => {
    const {values, weights} = lists[at], whole = mean ? weights ? weights.reduce((a, b) => a + b, 0) : values.length : 1;
    values.forEach((code, n) => add(tables[width], code + offset, width, Math.fround((weights?.[n] ?? 1) / whole), out, to));
  },
  vector: ({width, at, projection}, {vectors}, tables, out, to) => {
    if (!vectors[at]) out[to + width - 1] = 1;
    else if (!projection) out.set(vectors[at], to);
    else vectors[at].forEach((x, n) => add(tables[projection], n, width - 1, x, out, to));
  },
};

/** High for the best logit, of mean 0 and variance 1, smooth between candidates that are .05 apart. */
const softRanks = (logits) => logits.map((z) => Math.fround(Math.sqrt(12)
  * (0.5 - logits.reduce((sum, other) => sum + Math.min(Math.max((other - z) / 0.1 + 0.5, 0), 1), 0) / logits.length)));

export class Ranker {
  static async open(bundle) {
    const ranker = new Ranker(), {manifest, folder} = bundle;
    Object.assign(ranker, bundle, {encoder: new RequestEncoder(bundle, new Deriver(bundle)), graphs: {}, formulas: {}});
    for (const {name, scorer, value, labels} of manifest.stages) {
      if (!["parts", "graph"].includes(scorer)) throw new Error(`stage '${name}': this reader knows no scorer '${scorer}'`);
      if (scorer === "graph") ranker.formulas[name] = parseFormula(value, [...labels, ...manifest.data.columns]);
      for (const graph of scorer === "parts" ? [`${name}.item`, `${name}.value`] : [name]) {
        ranker.graphs[graph] = await ort.InferenceSession.create(join(folder, `${graph}.onnx`), {intraOpNumThreads: 1});
      }
    }
    return ranker;
  }
  /** The answer to a request. With `uncut` also what each stage makes of all candidates. */
  async rank(request, uncut = false) {
    const encoded = this.encoder.encode(request), {model_version, items_seq, content, stages} = this.manifest, seen = {}, all = {};
    let alive = encoded.known;
    for (const stage of stages) {
      const scored = uncut ? encoded.known : alive, {logits, values} = await this.#score(stage, encoded, scored, seen);
      if (!values.every(Number.isFinite)) throw new Error(`stage '${stage.name}': a value is not finite; look for extreme numbers in the request`);
      if (uncut) all[stage.name] = {logits, values};
      scored.forEach((candidate, n) => { candidate.score = values[n]; });
      alive = [...alive].sort((a, b) => b.score - a.score).slice(0, request.keep?.[stage.name] ?? stage.keep); // stable: ties as given
      alive = alive.filter(({score}) => stage.min_score === null || score >= stage.min_score);
    }
    const answer = {model_version, items_seq, items_id: content.split("-").at(-1), stage: stages.at(-1).name,
      items: alive.map(({id, score}) => ({id, score})), unknown: encoded.unknown, missing: encoded.missing};
    return uncut ? {answer, encoded, all} : answer;
  }
  async #score(stage, request, candidates, seen) {
    const {name, labels, main, tables: set, constants, matches, attended, from_stages: from} = stage, count = candidates.length;
    if (!count) return {logits: Object.fromEntries(labels.map((label) => [label, []])), values: []};
    const {inputs: columns, rows: {cross: names}, events} = this.layout, tables = this.tables[set], graph = this.graphs[`${name}.value`] ?? this.graphs[name];
    const make = (placement, rows) => tensor(dense(columns[placement], rows, tables), rows.length, total(columns[placement]));
    const inputs = {query: make("query", [request.query.row])};
    if (total(columns.cross)) inputs.cross = make("cross", candidates.map((candidate) => this.encoder.crossRow(request, candidate)));
    if (matches.length) {
      const chosen = columns.cross.flatMap(({is, at, width}) => Array(width).fill(matches.includes(names[is === "id" ? "ids" : `${is}s`][at]))), {data} = inputs.cross;
      const weights = chosen.map((one, c) => one ? constants[`match_${chosen.slice(0, c).filter(Boolean).length}`] : 0);
      inputs.matches = tensor(Float32Array.from(candidates, (_, n) => weights.reduce((sum, w, c) => w ? sum + w * data[n * weights.length + c] : sum, 0)), count);
    }
    if (attended) {
      const {rows, ages} = request.events[attended.history], length = rows.length || 1, width = total(events[name]);
      inputs.event = tensor(rows.length ? dense(events[name], rows, tables) : new Float32Array(width), length, width);
      inputs.mask = tensor(new Float32Array(length).fill(rows.length ? 1 : 0), length);
      inputs.ages = tensor(Float32Array.from(rows.length ? ages : [0]), length);
    }
    if (from.length) inputs.earlier = tensor(Float32Array.from(candidates.flatMap((c) => from.map(([earlier, what]) => seen[`${earlier}.${what}`].get(c)))), count, from.length);
    for (const [part, width] of Object.entries(stage.item_parts)) {
      inputs[`part.${part}`] = tensor(new Float32Array(count * width), count, width);
      for (const [n, candidate] of candidates.entries()) inputs[`part.${part}`].data.set(await this.#part(stage, part, width, candidate, tables), n * width);
    }
    Object.assign(inputs, this.#records(candidates.map(({record}) => record), tables));
    for (const input of graph.inputNames.filter((one) => one.startsWith("column."))) inputs[input] = tensor(Float32Array.from(candidates, (c) => this.encoder.number(input.slice(7), c)), count);
    const outputs = await graph.run(Object.fromEntries(graph.inputNames.map((input) => [input, inputs[input]]))), {data} = outputs.logits ?? Object.values(outputs)[0];
    const logits = Object.fromEntries(labels.map((label, k) => [label, candidates.map((_, n) => data[n * labels.length + k])])), ranks = softRanks(logits[main]);
    seen[`${name}.score`] = new Map(candidates.map((candidate, n) => [candidate, logits[main][n]]));
    seen[`${name}.rank`] = new Map(candidates.map((candidate, n) => [candidate, ranks[n]]));
    return {logits, values: outputs.value ? [...outputs.value.data] : candidates.map((candidate, n) => this.#value(stage, logits, candidate, n))};
  }
  /** The value of a candidate by which a stage orders whose graph gives logits alone. */
  #value({name, calibrators}, logits, candidate, n) {
    const {names, evaluate} = this.formulas[name], f = Math.fround;
    return evaluate(Object.fromEntries(names.map((one) => {
      if (!(one in logits)) return [one, this.encoder.number(one, candidate)];
      const x = f(f(logits[one][n] * f(calibrators[one].slope)) + f(calibrators[one].intercept)), small = f(Math.exp(-Math.abs(x)));
      return [one, f((x >= 0 ? 1 : small) / f(1 + small))];
    })));
  }
  /** The dense inputs of items' records. */
  #records(records, tables) {
    const {inputs, rows: {item}} = this.layout, later = ({ids, numbers, ...row}) => ({...row, ids: ids.slice(item.ids.length), numbers: numbers.slice(item.numbers.length)});
    return Object.fromEntries([["item", records], ["snapshot", records.map(later)]].map(([placement, rows]) =>
      [placement, tensor(dense(inputs[placement], rows, tables), rows.length, total(inputs[placement]))]));
  }
  /** What a stage keeps of an item: as stored, or computed of a described one. */
  async #part({name, precision}, part, width, {at, record}, tables) {
    if (at !== undefined) {
      const {data, scale} = this.parts[`${name}.${part}`], row = data.subarray(at * width, (at + 1) * width);
      return scale ? Float32Array.from(row, (x) => Math.fround(x * scale[at])) : data instanceof Uint16Array ? Float32Array.from(row, fromHalf) : row;
    }
    const given = this.#records([record], tables), graph = this.graphs[`${name}.item`];
    const {data} = (await graph.run(Object.fromEntries(graph.inputNames.map((input) => [input, given[input]]))))[`part.${part}`];
    const scale = Math.fround(data.reduce((most, x) => Math.max(most, Math.abs(x)), 0) / 127) || 1;
    return precision[part] === "fp16" ? data.map(roundToHalf) : precision[part] === "int8" ? data.map((x) => roundEven(Math.fround(x / scale)) * scale) : data;
  }
}
