// The value of a stage whose graph gives logits alone: a formula over calibrated probabilities and columns.
const POWERS = [{"+": (a, b) => a + b, "-": (a, b) => a - b}, {"*": (a, b) => a * b, "/": (a, b) => a / b}];

/** Parse a formula: the names in it, and a function of an object of numbers. */
export function parseFormula(text, known) {
  const tokens = known.includes(text.trim()) ? [text.trim()] : text.match(/\*\*|[-+*/()]|[\d.][\w.]*(?:(?<=[eE])[-+]\d+)?|[\p{L}_][\p{L}\p{N}_]*|\S/gu), names = [];
  const take = (...wanted) => wanted.includes(tokens[0]) ? tokens.shift() : null;
  const binary = (level) => {
    let left = level < 2 ? binary(level + 1) : unary();
    for (let sign; level < 2 && (sign = take(...Object.keys(POWERS[level])));) {
      const a = left, b = binary(level + 1), operate = POWERS[level][sign];
      left = (x) => operate(a(x), b(x));
    }
    return left;
  };
  const unary = () => {
    const sign = take("-", "+"), of = sign ? unary() : power();
    return sign === "-" ? (x) => -of(x) : of;
  };
  const power = () => {
    const base = atom(), by = take("**") ? unary() : null;
    return by ? (x) => base(x) ** by(x) : base;
  };
  const atom = () => {
    const token = tokens.shift(), inner = token === "(" ? binary(0) : null, number = Number(token?.replaceAll("_", ""));
    if (inner && take(")")) return inner;
    if (known.includes(token)) return names.push(token), (x) => x[token];
    if (inner || Number.isNaN(number)) throw new Error(`${text}: no formula`);
    return () => number;
  };
  const evaluate = binary(0);
  if (tokens.length) throw new Error(`${text}: no formula`);
  return {names, evaluate};
}
