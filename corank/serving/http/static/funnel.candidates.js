// The candidates, one a row, and what the live version knows of one of them.

const PAGE = 100;
const collated = new Intl.Collator("en", { numeric: true });

/** By how far they came, then by place: those in the answer first. */
function byFlow(shown) {
  const key = ({ at }) => [-at.size, at.get(shown.stages[at.size - 1].name).place];
  return (one, other) => key(one)[0] - key(other)[0] || key(one)[1] - key(other)[1];
}

/** The columns: name, group, who has it, what is shown, how two compare, and which way round first. */
function columnsOf(shown) {
  const ran = shown.stages.filter((stage) => stage.ran);
  const at = (stage, what, format, first) => ({
    name: what, group: stage, first, held: (candidate) => candidate.at.has(stage.name),
    cell: (candidate) => format(candidate.at.get(stage.name)[what]),
    compare: (one, other) => one.at.get(stage.name)[what] - other.at.get(stage.name)[what],
  });
  return [
    {
      name: "id", first: 1, held: () => true, cell: ({ id }) => plain(id),
      compare: (one, other) => collated.compare(plain(one.id), plain(other.id)),
    },
    ...ran.flatMap((stage) => [at(stage, "place", count, 1), at(stage, "score", score, -1)]),
    {
      name: "outcome", first: 1, held: () => true, cell: (candidate) => tagged(shown, candidate),
      compare: byFlow(shown),
    },
  ];
}

function tagged(shown, candidate) {
  const [kind, words] = outcome(shown, candidate);
  return el("span", { class: `tag ${kind}` }, words);
}

/** What may be shown: all, those in the answer, those that a stage cut; each with its words and who is of it. */
function outcomes(shown) {
  const { stages, answer } = shown;
  const found = [["all", "all", () => true], ["kept", "kept", ({ kept }) => kept]];
  for (const { name } of stages.filter(({ ran }) => ran)) {
    found.push([`cut ${name}`, `cut by ${name}`, ({ cut }) => cut === name]);
  }
  if (answer.fallback) {
    found.push(["past", `past ${stages.at(-1).name}'s quota`, ({ kept, cut }) => !kept && cut === null]);
  }
  return found;
}

/** Draws the table, and redraws it when it is sorted, narrowed or continued. */
function drawCandidates(shown, open) {
  const columns = columnsOf(shown);
  const kinds = outcomes(shown);
  const view = { column: columns.at(-1), sign: 1, most: PAGE };
  const [select, find] = [byId("outcome"), byId("find")];
  const before = select.value;
  select.replaceChildren(...kinds.map(([key, words, of]) =>
    el("option", { value: key }, `${words} (${count(shown.candidates.filter(of).length)})`)));
  select.value = kinds.some(([key]) => key === before) ? before : "all";
  const body = el("tbody", {});
  const more = el("button", { type: "button", click: () => { view.most += PAGE; draw(); } }, "Show more");
  const head = headed(columns, (column) => {
    view.sign = column === view.column ? -view.sign : column.first;
    view.column = column;
    draw();
  });
  const draw = () => {
    const rows = chosen(shown, kinds.find(([key]) => key === select.value)[2], find.value, view);
    body.replaceChildren(...rows.slice(0, view.most).map((candidate) => row(columns, candidate, open)));
    columns.forEach((column, n) => {
      const sorted = column === view.column ? { 1: "ascending", [-1]: "descending" }[view.sign] : "none";
      head.querySelectorAll("[aria-sort]")[n].setAttribute("aria-sort", sorted);
    });
    more.hidden = rows.length <= view.most;
    byId("count").textContent = (more.hidden ? "" : `${count(view.most)} of `) + many(rows.length, "candidate");
    mark();
  };
  select.onchange = find.oninput = () => { view.most = PAGE; draw(); };
  const words = "Every candidate's place and score by stage, and where it was cut";
  const caption = el("caption", { class: "unseen" }, words);
  byId("candidates").replaceChildren(el("table", { class: "long" }, caption, head, body), more);
  draw();
}

/** The header: stages over their columns, and a button in each column to sort by it. */
function headed(columns, sort) {
  const groups = columns.filter(({ group }, n) => !group || group !== columns[n - 1].group);
  return el("thead", {},
    el("tr", {}, groups.map(({ group }) => (group
      ? el("th", { scope: "colgroup", colspan: 2, class: hue(group) }, group.name) : el("td", {})))),
    el("tr", {}, columns.map((column) => el("th", { scope: "col", "aria-sort": "none" },
      el("button", { type: "button", class: "sort", click: () => sort(column) }, column.name)))));
}

/** Candidates of a kind whose id holds a text, sorted; those that did not reach a stage come last, both ways. */
function chosen(shown, of, text, { column, sign }) {
  const order = (one, other) => column.held(other) - column.held(one)
    || (column.held(one) && sign * column.compare(one, other));
  return shown.candidates.filter((candidate) => of(candidate) && plain(candidate.id).includes(text.trim())).sort(order);
}

function row(columns, candidate, open) {
  const [id, ...others] = columns;
  return el("tr", { "data-n": candidate.n, click: () => open(candidate) },
    el("th", { scope: "row" }, el("button", { type: "button", class: "link" }, id.cell(candidate))),
    others.map((column) => el("td", {}, column.held(candidate) ? column.cell(candidate) : "")));
}

let opened = null;

/** Shows a candidate's item beside the table: what the live version knows of it, and what the request says. */
async function openItem(shown, candidate) {
  opened = candidate;
  mark();
  const given = shown.request.candidates?.find((one) => isObject(one) && plain(one.id) === plain(candidate.id)) ?? {};
  const parts = await ask(`item?id=${encodeURIComponent(candidate.id)}`).then(described, (error) =>
    [el("p", { class: "error" }, why(error))]);
  if (opened !== candidate) return; // another was opened meanwhile
  const { id, ...columns } = given;
  byId("item").replaceChildren(
    el("button", { type: "button", class: "close", "aria-label": "Close", click: leaveItem }, "×"),
    el("h3", {}, `Item ${plain(candidate.id)}`),
    ...[...parts, ...valued("In the request", columns)].filter((part) => part !== null),
  );
  byId("item").hidden = false;
}

function described({ newer, features, columns }) {
  return [
    newer ? el("p", { class: "faint" }, "Newer than the bundle.") : null,
    ...valued("Features, as the model sees them", features),
    ...valued("Columns", columns),
  ];
}

function valued(title, values) {
  const rows = Object.entries(values).map(([name, value]) => [name, plain(value)]);
  return rows.length ? [el("h4", {}, title), table(title, ["name", "value"], rows)] : [];
}

function closeItem() {
  opened = null;
  byId("item").hidden = true;
  mark();
}

/** Closes it and goes back to its row. */
function leaveItem() {
  const row = document.querySelector("tr.open button");
  closeItem();
  row?.focus();
}

/** Marks the opened candidate wherever it is drawn. */
function mark() {
  for (const drawn of document.querySelectorAll("[data-n]")) {
    drawn.classList.toggle("open", opened !== null && drawn.dataset.n === String(opened.n));
  }
}
