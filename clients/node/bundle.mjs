// A bundle's folder, verified: manifest, layout, encoders, items, tables.
import {createHash} from "node:crypto";
import {readFileSync} from "node:fs";
import {join} from "node:path";
import {readArray} from "./arrays.mjs";
import {DERIVED_KINDS} from "./derive.mjs";
import {COLUMN_KINDS, ENCODERS, Ids} from "./encoders.mjs";

const FORMAT = 9;

export class Bundle {
  constructor(path) {
    this.manifest = JSON.parse(readFileSync(join(path, "manifest.json"), "utf8"));
    const {format, content, parts} = this.manifest;
    if (format !== FORMAT) throw new Error(`${path}: format ${format}; this reader reads format ${FORMAT}`);
    this.folder = join(path, content), this.tables = {};
    for (const [name, {bytes, sha256}] of Object.entries(parts)) {
      const raw = readFileSync(join(this.folder, name)), found = createHash("sha256").update(raw).digest("hex");
      if (raw.length !== bytes || found !== sha256) throw new Error(`${this.folder}/${name}: damaged, or of another version`);
      if (name.startsWith("tables/")) this.tables[name.slice(7, -4)] = readArray(join(this.folder, name)); // by SET/TABLE
    }
    this.layout = this.#json("layout.json");
    this.#check("plain", COLUMN_KINDS), this.#check("derived", DERIVED_KINDS);
    for (const facts of Object.values(this.layout.derived).flat().filter(({file}) => file)) {
      facts.keys = this.read(`${facts.file}/keys`).data, facts.values = this.read(`${facts.file}/values`).data;
    }
    this.encoders = Object.fromEntries(Object.entries(this.#json("encoders/encoders.json")).map(([name, fields]) =>
      [name, ENCODERS[fields.is](fields, (stem) => this.#readIds(stem))]));
    this.items = this.#readIds("items/keys"), this.fields = this.#fields();
    this.columns = Object.fromEntries(this.manifest.item_columns.map((name) => [name, this.read(`items/column.${name}`).data]));
  }
  has(name) { return `${name}.npy` in this.manifest.parts; }
  read(name) {
    if (!this.has(name)) throw new Error(`${this.folder}/${name}.npy: missing`);
    return readArray(join(this.folder, `${name}.npy`));
  }
  #json(name) { return JSON.parse(readFileSync(join(this.folder, name), "utf8")); }
  #check(part, kinds) {
    const odd = Object.values(this.layout[part]).flat().find(({kind}) => !(kind in kinds));
    if (odd) throw new Error(`${this.folder}: feature '${odd.feature}' is of kind '${odd.kind}', which this reader does not know`);
  }
  #readIds(stem) {
    if (this.has(stem)) return new Ids(false, [...this.read(stem).data]);
    const ends = Array.from(this.read(`${stem}.offsets`).data, Number), bytes = Buffer.from(this.read(`${stem}.text`).data);
    return new Ids(true, ends.slice(1).map((end, n) => bytes.toString("utf8", ends[n], end)));
  }
  /** What items have: the feature, the part of its value, that of an unknown item, and how an item's is read. */
  #fields() {
    const {record, operands} = this.layout, read = (name) => this.read(`items/${name}`).data;
    const lists = (stem) => {
      const [start, length, values] = ["start", "length", "values"].map((part) => read(`${stem}.${part}`));
      return (at) => Array.from(values.subarray(Number(start[at]), Number(start[at]) + length[at]));
    };
    const vectors = (stem) => {
      const row = read(`${stem}.row`), {data, width} = this.read(`items/${stem}.values`);
      return (at) => row[at] < 0 ? null : data.subarray(row[at] * width, (row[at] + 1) * width);
    };
    const openers = [
      [record.ids, "encoded", 0, (n, count, data = read("ids")) => (at) => data[at * count + n]],
      [record.numbers, "encoded", 0, (n, count, data = read("numbers")) => (at) => data[at * count + n]],
      [record.lists, "encoded", {codes: [], weights: null}, (n, _, list = lists(`list${n}`)) => (at) => ({codes: list(at), weights: null})],
      [record.vectors, "encoded", null, (n) => vectors(`vector${n}`)],
      [operands.keys, "hashes", [0n], (n, _, data = read(`operands/key${n}`)) => (at) => [data[at]]],
      [operands.lists, "hashes", [], (n) => lists(`operands/list${n}`)],
      [operands.numbers, "number", NaN, (n, _, data = read(`operands/number${n}`)) => (at) => data[at]],
    ];
    return openers.flatMap(([names, part, none, open]) => names.map((name, n) => ({name, part, none, read: open(n, names.length)})));
  }
  /** The encoded row of an item, −1 for an unknown one. */
  record(at) {
    const row = {};
    for (const {name, part, none, read} of this.fields) (row[name] ??= {})[part] = at < 0 ? none : read(at);
    return row;
  }
}
