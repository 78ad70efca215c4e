// The stages of a bundle: dense inputs, graphs and cuts.
import {join} from "node:path";
import {roundEven, roundToHalf} from "./arrays.mjs";
import {fillPage, pageVectors} from "./page.mjs";
import {RequestEncoder} from "./request.mjs";

process.env.ORT_DISABLE_TELEMETRY ??= "1";  // read when the runtime is loaded
const {default: ort} = await import("onnxruntime-node");

const tensor = (data, ...dims) => new ort.Tensor("float32", Float32Array.from(data), dims);
const whole = (data, ...dims) => new ort.Tensor("int64", BigInt64Array.from(data, BigInt), dims);
const total = (parts) => parts.reduce((sum, {width}) => sum + width, 0);

/** The dense input of rows; `tables` by their name. */
function dense(parts, rows, tables) {
  const width = total(parts), out = new Float32Array(rows.length * width);
  let at = 0;
  for (const row of rows) for (const part of parts) PARTS[part.is](part, row[part.feature].encoded, tables, out, at), at += part.width;
  return tensor(out, rows.length, width);
}
function add({data, width}, row, weight, out, at) {
  for (let i = 0; i < width; i++) out[at + i] += weight * data[row * width + i];
}
const PARTS = {
  id: ({width, offset}, code, tables, out, to) => add(tables(width), code + offset, 1, out, to),
  number: (_, number, tables, out, to) => { out[to] = number; },
  list: ({width, offset, mean}, {codes, weights}, tables, out, to) => {
    const whole = mean ? weights ? weights.reduce((a, b) => a + b, 0) : codes.length : 1;
    codes.forEach((code, n) => add(tables(width), code + offset, Math.fround((weights?.[n] ?? 1) / whole), out, to));
  },
  vector: ({width, projection}, vector, tables, out, to) => {
    if (!vector) out[to + width - 1] = 1;
    else if (!projection) out.set(vector, to);
    else vector.forEach((x, n) => add(tables(projection), n, x, out, to));
  },
};

/** High for the best logit, of mean 0 and variance 1, smooth between candidates that are .05 apart. */
const softRanks = (logits) => logits.map((z) => Math.fround(Math.sqrt(12)
  * (0.5 - logits.reduce((sum, other) => sum + Math.min(Math.max((other - z) / 0.1 + 0.5, 0), 1), 0) / logits.length)));

export class Ranker {
  static async open(bundle) {
    const ranker = new Ranker(), {manifest, folder} = bundle;
    Object.assign(ranker, {bundle}, bundle, {encoder: new RequestEncoder(bundle), graphs: {}, parts: {}});
    for (const {name, item_parts: parts} of manifest.stages) {
      if (!(`${name}.value.onnx` in manifest.files)) throw new Error(`stage '${name}': has no graph of its value, which this reader needs`);
      for (const graph of [`${name}.item`, `${name}.value`].filter((one) => `${one}.onnx` in manifest.files)) {
        ranker.graphs[graph] = await ort.InferenceSession.create(join(folder, `${graph}.onnx`), {intraOpNumThreads: 1});
      }
      for (const part of Object.keys(parts)) {
        const file = `items/part.${name}.${part}`, {data, width} = bundle.read(file), scale = bundle.has(`${file}.scale`) && bundle.read(`${file}.scale`).data;
        ranker.parts[`${name}.${part}`] = {width, data: scale ? Float32Array.from(data, (x, n) => x * scale[Math.floor(n / width)]) : data};
      }
    }
    return ranker;
  }
  /** The answer to a request. With `uncut` also what each step makes of all candidates. */
  async rank(request, uncut = false) {
    const encoded = this.encoder.encode(request), {model_version, items_seq, content, stages} = this.manifest, seen = {}, steps = {};
    let alive = encoded.known;
    for (const stage of stages) {
      const scored = uncut ? encoded.known : alive, {logits, values} = await this.#score(stage, encoded, scored, seen);
      if (!values.every(Number.isFinite)) throw new Error(`stage '${stage.name}': a value is not finite; look for extreme numbers in the request`);
      steps[stage.name] = {logits, values};
      scored.forEach((candidate, n) => { candidate.score = values[n]; });
      alive = [...alive].sort((a, b) => b.score - a.score).slice(0, request.keep?.[stage.name] ?? stage.keep);
      if (stage.min_score !== null) alive = alive.filter(({score}) => score >= stage.min_score);
    }
    if (this.manifest.page) alive = await this.#page(this.manifest.page, alive, request.keep);
    const answer = {model_version, items_seq, items_id: content.split("-").pop(), stage: stages.at(-1).name,
      items: alive.map(({id, score}) => ({id, score})), unknown: encoded.unknown, missing: encoded.missing};
    return {answer, encoded, stages: steps};
  }
  /** The candidates on the page, slot by slot. */
  async #page(page, alive, keep) {
    const [name, part] = (page.by ?? "").split("."), stage = part && this.manifest.stages.find((one) => one.name === name), rows = alive.map(({row}) => row);
    const {numbers, keys, lists} = this.layout.operands, width = !part && !keys.includes(page.by) && !lists.includes(page.by) ? page.by && rows.find((row) => row[page.by].encoded)?.[page.by].encoded.length : 0;
    let vectors = null;
    if (stage) {
      const {data, dims: [, wide]} = await this.#parts(stage, part, alive);
      vectors = pageVectors(alive.map((_, n) => ({own: {encoded: data.subarray(n * wide, (n + 1) * wide)}})), "own", numbers);
    } else if (page.by) vectors = pageVectors(rows, page.by, numbers, width);
    return fillPage(page, alive.map(({score}) => score), vectors, rows, numbers, keep?.[page.name] ?? page.keep).map((n) => alive[n]);
  }
  async #score(stage, request, candidates, seen) {
    const {name, labels, main, attended, from_stages: from} = stage, {inputs, events, matches} = this.layout, tables = this.#tables(stage);
    const graph = this.graphs[`${name}.value`], count = candidates.length, rows = candidates.map(({row}) => row);
    if (!count) return {logits: Object.fromEntries(labels.map((label) => [label, []])), values: []};
    const {rows: event, ages} = attended ? request.histories[attended.history] : {}, none = event?.length === 0, length = event?.length || 1;
    const cross = () => dense(inputs.cross, candidates.map((candidate) => candidate.cross), tables);
    const match = (data, n) => matches[name].reduce((sum, weight, i, {length: width}) => sum + weight * data[n * width + i], 0);
    const make = {
      query: () => dense(inputs.query, [request.query], tables), cross,
      item: () => dense(inputs.item, rows, tables), snapshot: () => dense(inputs.snapshot, rows, tables),
      matches: ({data} = cross()) => tensor(candidates.map((_, n) => match(data, n)), count),
      request_of: () => whole(Array(count).fill(0), count),
      event: () => tensor(none ? Array(total(events[name])).fill(0) : dense(events[name], event, tables).data, 1, length, total(events[name])),
      mask: () => tensor(Array(length).fill(none ? 0 : 1), 1, length), ages: () => tensor(none ? [0] : ages, 1, length),
      earlier: () => tensor(candidates.flatMap((c) => from.map(([stage, what]) => seen[`${stage}.${what}`].get(c))), count, from.length),
    };
    const given = {};
    for (const input of graph.inputNames) {
      const [what, of] = input.split(/\.(.*)/);
      if (what === "part") given[input] = await this.#parts(stage, of, candidates);
      else given[input] = what === "column" ? tensor(candidates.map((c) => this.encoder.number(of, c)), count) : make[what]();
    }
    const outputs = await graph.run(given), {data} = outputs.logits;
    const logits = Object.fromEntries(labels.map((label, k) => [label, candidates.map((_, n) => data[n * labels.length + k])]));
    const see = (what, values) => { seen[`${name}.${what}`] = new Map(candidates.map((candidate, n) => [candidate, values[n]])); };
    see("score", logits[main]), see("rank", softRanks(logits[main]));
    return {logits, values: [...outputs.value.data]};
  }
  #tables({tables: set}) { return (name) => this.tables[`${set}/${name}`]; }
  /** What a stage keeps of candidates' items: as stored, or computed of described ones. */
  async #parts(stage, part, candidates) {
    const {data, width} = this.parts[`${stage.name}.${part}`], graph = this.graphs[`${stage.name}.item`], found = [];
    for (const {at, row} of candidates) {
      if (at >= 0) { found.push(...data.subarray(at * width, (at + 1) * width)); continue; }
      const given = graph.inputNames.map((input) => [input, dense(this.layout.inputs[input], [row], this.#tables(stage))]);
      const {data: computed} = (await graph.run(Object.fromEntries(given)))[`part.${part}`];
      const step = Math.fround(computed.reduce((most, x) => Math.max(most, Math.abs(x)), 0) / 127) || 1;
      const round = {fp16: roundToHalf, int8: (x) => roundEven(Math.fround(x / step)) * step}[stage.precision[part]] ?? ((x) => x);
      found.push(...computed.map(round));
    }
    return tensor(found, candidates.length, width);
  }
}
