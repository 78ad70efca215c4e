// A bundle's folder, verified: manifest, layout, encoders, items, priors, tables.
import {createHash} from "node:crypto";
import {readFileSync} from "node:fs";
import {join} from "node:path";
import {fromHalf, readArray, readIds, toNumbers} from "./arrays.mjs";
import {Bucket, Encoders, Hash, Scale, Vocabulary} from "./encoders.mjs";

const FORMAT = 7;
const KINDS = ["id", "ids", "number", "bucket", "vector", "time", "age", "candidates", "contains", "count", "cosine", "pair", "prior", "product", "ratio"];

export class Bundle {
  constructor(path) {
    this.manifest = JSON.parse(readFileSync(join(path, "manifest.json"), "utf8"));
    const {format, content, features, parts, stages} = this.manifest;
    if (format !== FORMAT) throw new Error(`${path}: format ${format}; this reader reads format ${FORMAT}`);
    this.folder = join(path, content);
    for (const [name, {bytes, sha256}] of Object.entries(parts)) {
      const raw = readFileSync(join(this.folder, name)), found = createHash("sha256").update(raw).digest("hex");
      if (raw.length !== bytes || found !== sha256) throw new Error(`${this.folder}/${name}: damaged, or of another version`);
    }
    const odd = Object.keys(features).find((name) => !KINDS.includes(features[name].kind));
    if (odd) throw new Error(`${path}: feature '${odd}' is of kind '${features[odd].kind}', which this reader does not know`);
    this.layout = this.#json("layout.json");
    const make = {
      vocabulary: ({file}, {kind}) => new Vocabulary(readIds(this.read, `encoders/${file}`, kind === "pair")),
      hash: (f) => new Hash(f), bucket: (f) => new Bucket(f), scale: (f) => new Scale(f),
    };
    const fitted = Object.entries(this.#json("encoders/encoders.json")).map(([name, f]) => [name, make[f.is](f, features[name])]);
    this.encoders = new Encoders(features, this.layout, Object.fromEntries(fitted));
    this.items = this.#items();
    this.parts = Object.fromEntries(stages.flatMap(({name, item_parts: own}) => Object.keys(own).map((part) => [`${name}.${part}`, {
      data: this.read(`items/part.${name}.${part}.npy`).data, scale: this.read(`items/part.${name}.${part}.scale.npy`, false)?.data}])));
    const prior = (other, n) => ({other, keys: this.read(`priors/${n}/keys.npy`).data, values: this.read(`priors/${n}/values.npy`).data});
    this.priors = Object.fromEntries(Object.entries(this.layout.priors).map(([name, other], n) => [name, prior(other, n)]));
    const table = (name) => { const {data, shape} = this.read(name); return {data, width: shape[1]}; };
    this.tables = Object.fromEntries(stages.map(({tables: set}) => [set, Object.fromEntries(Object.keys(parts)
      .filter((name) => name.startsWith(`tables/${set}/`)).map((name) => [name.split("/")[2].replace(".npy", ""), table(name)]))]));
  }
  read = (name, needed = true) => {
    if (name in this.manifest.parts) return readArray(join(this.folder, name));
    if (needed) throw new Error(`${this.folder}/${name}: missing`);
  };
  #json(name) { return JSON.parse(readFileSync(join(this.folder, name), "utf8")); }
  #lists(stem) {
    const [start, length, values] = ["start", "length", "values"].map((part) => this.read(`${stem}.${part}.npy`).data);
    return (n) => Array.from(values.subarray(Number(start[n]), Number(start[n]) + length[n]));
  }
  #vectors(stem) {
    const {data} = this.read(`${stem}.row.npy`), {data: values, shape: [, width]} = this.read(`${stem}.values.npy`);
    return (n) => data[n] < 0 ? null : Float32Array.from(values.subarray(data[n] * width, (data[n] + 1) * width), fromHalf);
  }
  #items() {
    const {rows, operands: {item: wanted}} = this.layout, {text, values} = readIds(this.read, "items/keys");
    const all = (part) => [...rows.item[part], ...rows.snapshot[part]], read = (name) => this.read(`items/${name}.npy`).data;
    const each = (names, open) => Object.fromEntries(names.map((name, n) => [name, open(n)]));
    return {
      text, index: new Map(values.map((id, n) => [id, n])),
      ids: read("ids"), numbers: read("numbers"), idCount: all("ids").length, numberCount: all("numbers").length,
      lists: all("lists").map((_, n) => this.#lists(`items/list${n}`)),
      vectors: rows.item.vectors.map((_, n) => this.#vectors(`items/vector${n}`)),
      keys: each(wanted.keys, (n) => read(`operands/key${n}`)),
      keyLists: each(wanted.lists, (n) => this.#lists(`items/operands/list${n}`)),
      operandNumbers: each(wanted.numbers, (n) => read(`operands/number${n}`)),
      columns: each(this.manifest.item_columns, (n) => read(`column.${this.manifest.item_columns[n]}`)),
    };
  }
}
