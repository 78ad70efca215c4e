// Derived features: crosses, matches, priors and ages, of one query, one item, or a pair of both.
import {mix} from "./arrays.mjs";
import {bisect} from "./encoders.mjs";

const counted = new WeakMap();

export class Deriver {
  constructor({layout, manifest, priors}) { Object.assign(this, {layout, manifest, priors}); }
  /** By name the code or number of every derived feature of a placement; `time` null for before all. */
  all(placement, encoders, query, item, time, size) {
    return Object.fromEntries(Object.entries(this.layout.derived[placement]).map(([name, operands]) =>
      [name, encoders.derived(name, this.#derive(name, operands, query, item, time, size))]));
  }
  /** A hash (0 for none) or a number (NaN for none). */
  #derive(name, operands, query, item, time, size) {
    const {kind, every} = this.manifest.features[name], side = (operand) => this.layout.sides[operand] === "item" ? item : query;
    const take = (part) => operands.map((operand) => side(operand)[part][operand]);
    switch (kind) {
      case "candidates": return size;
      case "age": {
        const then = every ? this.manifest.priors[name] : time;
        return then === null ? NaN : Math.max((then - take("numbers")[0]) / 864e5, 0);
      }
      case "count": return this.#matches(operands, side);
      case "contains": return Number(this.#matches(operands, side) > 0);
      case "pair": return mix(take("keys"));
      case "prior": return this.#prior(this.priors[name], mix(take("keys")));
      case "cosine": return cosine(...take("vectors"));
      default: {
        const [a, b] = take("numbers"), found = kind === "ratio" ? a / b : a * b;
        return Number.isFinite(found) ? found : NaN;
      }
    }
  }
  #matches([listed, sought], side) {
    const held = side(listed).lists[listed], wanted = side(sought).lists[sought] ?? [side(sought).keys[sought]];
    if (!counted.has(held)) counted.set(held, held.reduce((counts, value) => counts.set(value, (counts.get(value) ?? 0) + 1), new Map()));
    return wanted.reduce((sum, value) => sum + (value === 0n ? 0 : counted.get(held).get(value) ?? 0), 0);
  }
  #prior({keys, values, other}, key) {
    const at = bisect(keys, key);
    return key === 0n ? NaN : keys[at] === key ? values[at] : other ?? NaN;
  }
}

function cosine(a, b) {
  if (!a || !b) return NaN;
  const dot = (x, y) => x.reduce((sum, value, n) => sum + value * y[n], 0), squares = dot(a, a) * dot(b, b);
  return squares === 0 ? NaN : Math.fround(dot(a, b) / Math.sqrt(squares));
}
