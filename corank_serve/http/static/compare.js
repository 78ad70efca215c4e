// Two answers side by side: A, which was kept, and B, the latest; of two requests, or of two versions.

const SAVED = "corank answer 1";
const SIDES = ["A, kept", "B, the latest"];

/** Draws both answers and where they differ; hides the part if there is nothing to compare. */
function drawCompared(a, b, at) {
  const shown = a !== null && b !== null && a !== b;
  byId("compared").hidden = !shown;
  byId("kept").hidden = a === null;
  if (a === null) return;
  setText(byId("kept-text"), `A, kept at ${at}: ${describeAnswer(a)}.`
    + (shown ? "" : " Rank another request, or this one again once another version is live."));
  if (!shown) return;
  byId("compared-said").textContent = summariseDifference(a, b);
  byId("compared-answers").replaceChildren(...[a, b].map((answer, n) => answerColumn(answer, SIDES[n])));
  drawPlaces(a, b);
}

const describeAnswer = ({ request, answer }) => `${summarise(request)}; ${versionOf(answer)}`;

function answerColumn(shown, side) {
  const part = (title, children) => [
    el("h4", {}, title),
    el("div", { class: "wide", tabindex: 0, role: "group", "aria-label": `${title}, ${side}` }, children),
  ];
  const total = Object.values(shown.answer.microseconds).reduce((sum, took) => sum + (took ?? 0), 0);
  return el(
    "div", {}, el("h3", {}, side), el("p", { class: "faint" }, `${describeAnswer(shown)}.`),
    fallbackNotices(shown), part("Funnel", flowTable(shown, side)),
    part(`Time: ${count(total)} µs in all`, timeTable(shown, side)),
  );
}

/** Each candidate of either answer: its places, from 1, null where it is not in the answer; and its outcomes. */
function joinAnswers(a, b) {
  const places = [a, b].map(({ answer }) => new Map(answer.items.map(({ id }, n) => [plain(id), n + 1])));
  const found = new Map();
  [a, b].forEach(({ candidates }, side) => candidates.forEach((candidate) => {
    const id = plain(candidate.id);
    if (!found.has(id)) found.set(id, { id, place: places.map((of) => of.get(id) ?? null), of: [null, null] });
    found.get(id).of[side] = candidate;
  }));
  const order = ({ place: [one, other] }) => [other ?? Infinity, one ?? Infinity];
  const by = (one, other) => (one === other ? 0 : one - other);
  return [...found.values()].sort((one, other) =>
    by(order(one)[0], order(other)[0]) || by(order(one)[1], order(other)[1]));
}

const inBoth = ({ place }) => place[0] !== null && place[1] !== null;
const onlyIn = (side) => ({ place }) => place[side] !== null && place[1 - side] === null;

function summariseDifference(a, b) {
  const rows = joinAnswers(a, b);
  const both = rows.filter(inBoth);
  const moved = both.filter(({ place: [one, other] }) => one !== other).length;
  const alone = [0, 1].map((side) => count(rows.filter(onlyIn(side)).length));
  const version = same(a.answer, b.answer) ? "The same version ranked both." : "Two versions ranked them.";
  return `${many(both.length, "item")} in both answers, ${count(moved)} of them at another place; `
    + `${alone[0]} only in A, ${alone[1]} only in B. ${version}`;
}

/** The table of places, with a choice of what it lists. */
function drawPlaces(a, b) {
  const rows = joinAnswers(a, b);
  const kinds = [
    ["in an answer", ({ place }) => place[0] !== null || place[1] !== null],
    ["in both answers", inBoth], ["only in A", onlyIn(0)], ["only in B", onlyIn(1)], ["all candidates", () => true],
  ];
  const choice = byId("places-of");
  const before = Math.max(choice.selectedIndex, 0);
  choice.replaceChildren(...kinds.map(([words, of], n) =>
    el("option", { value: n }, `${words} (${count(rows.filter(of).length)})`)));
  choice.selectedIndex = before;
  let most = PAGE;
  const draw = () => {
    const listed = rows.filter(kinds[choice.selectedIndex][1]);
    const more = el("button", { type: "button", click: () => { most += PAGE; draw(); } }, "Show more");
    const header = ["id", "place in A", "place in B", "moved", "outcome in A", "outcome in B"];
    byId("places").replaceChildren(
      table("Places in both answers", header, listed.slice(0, most).map((row) => placeRow(row, [a, b]))),
      ...(listed.length > most ? [more] : []),
    );
  };
  choice.onchange = () => { most = PAGE; draw(); };
  draw();
}

function placeRow({ id, place, of }, answers) {
  const outcome = (candidate, side) => (candidate ? outcomeTag(answers[side], candidate) : "no candidate");
  return [id, ...place.map((one) => (one === null ? "–" : count(one))), moveOf(place), ...of.map(outcome)];
}

function moveOf([one, other]) {
  if (one === null || other === null) return "";
  if (one === other) return "–";
  return one > other ? `up ${count(one - other)}` : `down ${count(other - one)}`;
}

/** An answer as the text of a file, with the facts of its version. */
function saveAnswer({ request, answer, version }) {
  return JSON.stringify({ kind: SAVED, request, answer, version });
}

/** The answer of a saved file. Throws an Error that says what is wrong. */
function readAnswer(text) {
  try {
    const { kind, request, answer, version } = parseJson(text);
    if (kind !== SAVED) throw new Error("another kind");
    const shown = combine(request, answer, version);
    answerColumn(shown, "A"); // so that a file that cannot be drawn is refused before anything is changed
    return shown;
  } catch {
    throw new Error("Not an answer that this page saved.");
  }
}

function download(name, text) {
  const url = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  el("a", { href: url, download: name }).click();
  URL.revokeObjectURL(url);
}
