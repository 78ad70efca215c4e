// The table of candidates, and what the live version knows of one item.

const PAGE = 100;
const collated = new Intl.Collator("en", { numeric: true });

/** Compares two candidates: by the number of stages reached, then by rank at the last; the answer comes first. */
function byFlow(shown) {
  const key = ({ at }) => [-at.size, at.get(shown.stages[at.size - 1].name).rank];
  return (one, other) => key(one)[0] - key(other)[0] || key(one)[1] - key(other)[1];
}

/** The columns: name, group, whether a candidate has a value, its cell, a comparison, the sign of the first sort. */
function columnsOf(shown) {
  const ran = shown.stages.filter((stage) => stage.ran);
  const at = (stage, what, format, first) => ({
    name: what, group: stage, first, has: (candidate) => candidate.at.has(stage.name),
    cell: (candidate) => format(candidate.at.get(stage.name)[what]),
    compare: (one, other) => one.at.get(stage.name)[what] - other.at.get(stage.name)[what],
  });
  return [
    {
      name: "id", first: 1, has: () => true, cell: ({ id }) => plain(id),
      compare: (one, other) => collated.compare(plain(one.id), plain(other.id)),
    },
    {
      name: "outcome", first: 1, has: () => true, cell: (candidate) => outcomeTag(shown, candidate),
      compare: byFlow(shown),
    },
    ...ran.flatMap((stage) => [at(stage, "rank", count, 1), at(stage, "score", score, -1)]),
  ];
}

function outcomeTag(shown, candidate) {
  const [kind, words] = outcomeOf(shown, candidate);
  return noted(el("span", { class: `tag ${kind}` }, words), describeMove(candidate));
}

/** The outcomes to filter by: all, kept, cut by a stage; each with its label and a predicate. */
function listOutcomes(shown) {
  const { stages, answer } = shown;
  const found = [["all", "all", () => true], ["kept", "kept", ({ kept }) => kept]];
  for (const { name } of stages.filter(({ ran }) => ran)) {
    found.push([`cut ${name}`, `cut by ${name}`, ({ cut }) => cut === name]);
  }
  if (answer.fallback) {
    found.push(["over", `over ${stages.at(-1).name}'s quota`, ({ kept, cut }) => !kept && cut === null]);
  }
  return found;
}

/** Draws the table, and redraws it when it is sorted, filtered or extended. */
function drawCandidates(shown, open) {
  const columns = columnsOf(shown);
  const kinds = listOutcomes(shown);
  const view = { column: columns.find(({ name }) => name === "outcome"), sign: 1, most: PAGE };
  const [filter, find] = [byId("outcome"), byId("find")];
  const before = filter.value;
  filter.replaceChildren(...kinds.map(([key, words, of]) =>
    el("option", { value: key }, `${words} (${count(shown.candidates.filter(of).length)})`)));
  filter.value = kinds.some(([key]) => key === before) ? before : "all";
  const body = el("tbody", {});
  const more = el("button", { type: "button", click: () => { view.most += PAGE; draw(); } }, "Show more");
  const header = makeHeader(columns, (column) => {
    view.sign = column === view.column ? -view.sign : column.first;
    view.column = column;
    draw();
  });
  const draw = () => {
    const rows = selectRows(shown, kinds.find(([key]) => key === filter.value)[2], find.value, view);
    body.replaceChildren(...rows.slice(0, view.most).map((candidate) => row(columns, candidate, open)));
    columns.forEach((column, n) => {
      const sorted = column === view.column ? { 1: "ascending", [-1]: "descending" }[view.sign] : "none";
      header.querySelectorAll("[aria-sort]")[n].setAttribute("aria-sort", sorted);
    });
    more.hidden = rows.length <= view.most;
    byId("count").textContent = (more.hidden ? "" : `${count(view.most)} of `) + many(rows.length, "candidate");
    mark();
  };
  filter.onchange = find.oninput = () => { view.most = PAGE; draw(); };
  const description = "Every candidate's rank and score by stage, and the stage that cut it";
  const caption = el("caption", { class: "unseen" }, description);
  byId("candidates").replaceChildren(el("table", { class: "long" }, caption, header, body), more);
  draw();
}

/** The header: stages above their columns, and a button in each column that sorts by it. */
function makeHeader(columns, sort) {
  const groups = columns.filter(({ group }, n) => !group || group !== columns[n - 1].group);
  return el("thead", {},
    el("tr", {}, groups.map(({ group }) => (group
      ? el("th", { scope: "colgroup", colspan: 2, class: hue(group) }, group.name) : el("td", {})))),
    el("tr", {}, columns.map((column) => el("th", { scope: "col", "aria-sort": "none" },
      el("button", { type: "button", class: "sort", click: () => sort(column) }, column.name)))));
}

/** The candidates of an outcome whose id contains a text, sorted; those without a value always come last. */
function selectRows(shown, of, text, { column, sign }) {
  const order = (one, other) => column.has(other) - column.has(one)
    || (column.has(one) && sign * column.compare(one, other));
  return shown.candidates.filter((candidate) => of(candidate) && plain(candidate.id).includes(text.trim())).sort(order);
}

function row(columns, candidate, open) {
  const [id, ...others] = columns;
  return el("tr", { "data-n": candidate.n, click: () => open(candidate) },
    el("th", { scope: "row" }, el("button", { type: "button", class: "link" }, id.cell(candidate))),
    others.map((column) => el("td", {}, column.has(candidate) ? column.cell(candidate) : "")));
}

let opened = null;
let opener = null; // what had the focus when the item was opened

/** Shows a candidate's item beside the table: what the live version knows of it, and what the request gives. */
async function openItem(shown, candidate) {
  opened = candidate;
  opener = byId("item").contains(document.activeElement) ? opener : document.activeElement;
  mark();
  const given = shown.request.candidates?.find((one) => isObject(one) && plain(one.id) === plain(candidate.id)) ?? {};
  const parts = await fetchJson(`item?id=${encodeURIComponent(candidate.id)}`).then(describe, (error) =>
    [el("p", { class: "error" }, describeError(error))]);
  if (opened !== candidate) return; // another item was opened meanwhile
  const { id, ...columns } = given;
  byId("item").replaceChildren(
    el("button", { type: "button", class: "close", "aria-label": "Close", click: closeAndReturn }, "×"),
    el("h3", {}, `Item ${plain(candidate.id)}`),
    ...[...parts, ...valueTable("In the request", columns)].filter((part) => part !== null),
  );
  byId("item").hidden = false;
  byId("item").focus({ preventScroll: true });
}

function describe({ newer, features, columns }) {
  return [
    newer ? el("p", { class: "faint" }, "Added or changed since the bundle was exported.") : null,
    ...valueTable("Features, as the model reads them", features),
    ...valueTable("Columns", columns),
  ];
}

function valueTable(title, values) {
  const rows = Object.entries(values).map(([name, value]) => [name, plain(value)]);
  return rows.length ? [el("h4", {}, title), table(title, ["name", "value"], rows)] : [];
}

function closeItem() {
  opened = null;
  byId("item").hidden = true;
  mark();
}

/** Closes the item and moves the focus back to where it was opened from, or to its row. */
function closeAndReturn() {
  const usable = opener?.isConnected && opener !== document.body;
  const back = usable ? opener : document.querySelector("tr.open button");
  closeItem();
  back?.focus();
}

/** Highlights the opened candidate in the table and the plot. */
function mark() {
  for (const drawn of document.querySelectorAll("[data-n]")) {
    drawn.classList.toggle("open", opened !== null && drawn.dataset.n === String(opened.n));
  }
}
