// Elements made of text alone: no value is ever read as markup.

const byId = (id) => document.getElementById(id);

/** An element; a function among its attributes becomes a listener, null and false are left out. */
function el(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name, value);
    else if (value !== null && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null));
  return element;
}

/** A table with a caption for screen readers. Cells are text or elements; the first of a row is its header. */
function table(caption, header, rows) {
  return el(
    "table", {},
    el("caption", { class: "unseen" }, caption),
    el("thead", {}, el("tr", {}, header.map((name) => (name ? el("th", { scope: "col" }, name) : el("td"))))),
    el("tbody", {}, rows.map(([first, ...cells]) =>
      el("tr", {}, el("th", { scope: "row" }, first), cells.map((cell) => el("td", {}, cell))))),
  );
}

/** A bar of spans [class, from, to] and of marks, in shares of its width. */
function bar(spans, marks = []) {
  const percent = (share) => `${100 * share}%`;
  return svg(
    "svg", { class: "bar", "aria-hidden": "true" },
    spans.filter(([, from, to]) => to > from).map(([kind, from, to]) =>
      svg("rect", { class: kind, x: percent(from), width: percent(Math.max(to - from, 0.004)), height: "100%" })),
    marks.map((at) => svg("line", { class: "mark", x1: percent(at), x2: percent(at), y1: 0, y2: "100%" })),
  );
}

const countFormat = new Intl.NumberFormat("en");

/** A count with thousands separators. */
const count = (number) => countFormat.format(number);

/** A score with five digits: the useful precision of 32 bits. */
const score = (number) => number.toPrecision(5);

/** The text for a JSON value. */
function plain(value) {
  if (value === null || value === "") return "–";
  if (Array.isArray(value)) return value.map(plain).join(", ") || "–";
  return typeof value === "object" ? JSON.stringify(value) : String(value);
}

/** "1 item", "2 items". */
const many = (number, noun) => `${count(number)} ${noun}${number === 1 ? "" : "s"}`;
