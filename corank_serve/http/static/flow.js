// The funnel of one answer: how many candidates each stage ranked, kept and cut, and how long it took.

const FALLBACKS = {
  skipped: "was skipped: the time left before its deadline is less than its recent p99",
  late: "was stopped: its deadline passed",
  failed: "failed: its graph could not be computed",
};
const CHIPS = 30;

/** Combines a request, its answer and the live version into what the parts of the page draw. */
function combine(request, answer, version) {
  const last = version.stages.findIndex((stage) => stage.name === answer.stage);
  const page = version.stages.find(isPage)?.name; // it is filled whichever stage was the last to finish
  const candidates = answer.trace.map(({ id, stages, cut }, n) => {
    const at = new Map(Object.entries(stages));
    const place = at.get(page ?? answer.stage);
    return { n, id, at, cut, kept: cut === null && place?.rank <= answer.items.length, moved: place?.moved };
  });
  const stages = version.stages.map((facts, n) =>
    stageResult(facts, n, request, candidates, n <= last || isPage(facts)));
  return { request, answer, version, candidates, stages };
}

const isPage = (stage) => stage.rules !== undefined;

/** What kept a candidate from the slot that its value would give it; nothing if it stands there. */
function describeMove({ moved }) {
  if (!moved) return "";
  const why = moved.rule ?? (moved.neighbour === null ? "later slots need others" : `like ${plain(moved.neighbour)}`);
  return `passed over at slot ${moved.slot}: ${why}`;
}

/** A stage's settings, its quota for this request, and how many candidates it ranked, kept, and cut by min_score. */
function stageResult(facts, n, request, candidates, ran) {
  const { name } = facts;
  const quota = request.keep?.[name] ?? facts.keep;
  const cut = candidates.filter((candidate) => candidate.cut === name);
  const seen = candidates.filter((candidate) => candidate.at.has(name)).length;
  const below = cut.filter((candidate) => candidate.at.get(name).rank <= quota).length;
  return { ...facts, n, ran, quota, seen, kept: seen - cut.length, below };
}

const hue = (stage) => `hue${stage.n % 6}`;

/** A candidate's outcome: its CSS classes and its label. */
function outcomeOf(shown, candidate) {
  if (candidate.kept) return ["kept", "kept"];
  if (candidate.cut === null) return ["cut", `over ${shown.stages.at(-1).name}'s quota`];
  const stage = shown.stages.find(({ name }) => name === candidate.cut);
  const low = candidate.at.get(stage.name).rank <= stage.quota;
  return [`cut ${hue(stage)}`, `cut by ${stage.name}${low ? `, below ${stage.min_score}` : ""}`];
}

function drawFlow(shown) {
  byId("flow").replaceChildren(flowTable(shown));
  drawNotes(shown);
}

/** What each stage kept and cut; `side` names one of two answers. */
function flowTable(shown, side = "") {
  const { answer, stages, candidates } = shown;
  const all = candidates.length + answer.unknown.length;
  const rows = [flowRow("candidates", "", all, candidates.length, all, "unknown", "none")];
  for (const stage of stages.filter(({ ran }) => ran)) {
    const floor = stage.min_score === null ? "" : `score ≥ ${stage.min_score}`;
    const low = stage.below ? `${count(stage.below)} below ${stage.min_score}` : "";
    const quota = noted(count(stage.quota), floor);
    rows.push(flowRow(stage.name, quota, stage.seen, stage.kept, all, low, hue(stage)));
  }
  if (answer.fallback) {
    const [last, ran] = [stages.at(-1), stages.find((stage) => stage.name === answer.stage)];
    const label = `answer, in ${ran.name}'s order`;
    rows.push(flowRow(label, count(last.quota), ran.kept, answer.items.length, all, "", hue(ran)));
  }
  const drawn = table(`What each stage kept and cut ${side}`, ["stage", "quota", "in", "kept", "cut", ""], rows);
  drawn.className = "flow";
  return drawn;
}

function flowRow(name, quota, seen, kept, all, note, kind) {
  const share = (number) => (all ? number / all : 0);
  const drawn = bar([[`cut ${kind}`, share(kept), share(seen)], [kind, 0, share(kept)]]);
  return [name, quota, count(seen), count(kept), noted(count(seen - kept), seen > kept ? note : ""), drawn];
}

/** A figure with a small note below it, if there is one. */
const noted = (figure, note) => (note ? el("span", {}, figure, el("small", {}, note)) : figure);

function drawNotes({ answer }) {
  const user = {
    given: "User columns: from the request.",
    stored: "User columns: from the store.",
    new: "The store does not have this user: ranked as a new user.",
  };
  byId("notes").replaceChildren(
    el("p", {}, user[answer.user]),
    ...listed("Unknown", "not in the bundle and not described in the request: left out", answer.unknown),
    ...listed("Missing", "columns that the request lacks: ranked as missing", answer.missing),
  );
}

/** A paragraph of values, the first ones if there are many; nothing if there are none. */
function listed(title, what, values) {
  if (!values.length) return [];
  const rest = values.length > CHIPS ? ` and ${count(values.length - CHIPS)} more` : "";
  const chips = values.slice(0, CHIPS).flatMap((value) => [el("code", {}, plain(value)), " "]);
  return [el("p", {}, el("strong", {}, `${title}: ${count(values.length)}`), ` ${what}. `, chips, rest)];
}

/** A notice above the answer, if a stage did not finish. */
function fallbackNotices({ answer }) {
  const { fallback, stage } = answer;
  if (!fallback) return [];
  const what = FALLBACKS[fallback.why] ?? fallback.why;
  return [notice("Fallback.", `${fallback.stage} ${what}. The answer is ordered by ${stage}.`)];
}

const notice = (title, words) => el("p", { class: "notice" }, el("strong", {}, title), ` ${words}`);

/** Parts in sequence from the arrival of the request, from which deadlines count, too; and a note. */
function timeTable({ answer, stages }, side = "") {
  const part = (name, kind, due) => ({ name, kind, due, took: answer.microseconds[name] ?? null });
  const parts = [
    part("receive", "none", null),
    ...stages.map((stage) => part(stage.name, hue(stage), stage.deadline_ms && 1000 * stage.deadline_ms)),
  ];
  const total = parts.reduce((sum, { took }) => sum + took, 0);
  const limits = parts.filter(({ due }) => due !== null);
  // a distant deadline would squeeze the bars
  const end = Math.max(total, 1, ...limits.map(({ due }) => due).filter((due) => due < 3 * total));
  let before = 0;
  const rows = parts.map(({ name, kind, took, due }) => {
    const marks = due !== null && due <= end ? [due / end] : [];
    const span = [kind, before / end, (before += took) / end];
    const told = took === null ? ["–", "–"] : [count(took), count(before)];
    return [name, ...told, ...(limits.length ? [due === null ? "" : count(due)] : []), bar([span], marks)];
  });
  const header = ["part", "time, µs", "done after, µs", ...(limits.length ? ["deadline, µs"] : []), ""];
  const note = el("p", { class: "faint" }, "Deadlines, like “done after”, count from the arrival of the request.");
  const drawn = table(`Time by part ${side}`, header, rows);
  drawn.className = "time";
  return [drawn, ...(limits.length ? [note] : [])];
}
