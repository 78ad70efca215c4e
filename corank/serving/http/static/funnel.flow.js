// What an answer says of the funnel: how many each stage saw, kept and cut, and how long it took.

const FALLEN = {
  skipped: "was not run: what was left until its deadline is less than it lately takes",
  late: "was stopped: its deadline passed",
  failed: "failed: its graph could not be computed",
};
const CHIPS = 30;

/** A request, its answer and the version that gave it, as the parts of the page draw them. */
function followed(request, answer, version) {
  const through = version.stages.findIndex((stage) => stage.name === answer.stage);
  const candidates = answer.trace.map(({ id, stages, cut }, n) => {
    const at = new Map(Object.entries(stages));
    return { n, id, at, cut, kept: cut === null && at.get(answer.stage).place <= answer.items.length };
  });
  const stages = version.stages.map((facts, n) => staged(facts, n, request, candidates, n <= through));
  return { request, answer, candidates, stages };
}

/** Of a stage: its facts, its quota for this request, and how many it saw, kept, and cut by quota and by score. */
function staged(facts, n, request, candidates, ran) {
  const { name } = facts;
  const quota = request.keep?.[name] ?? facts.keep;
  const cut = candidates.filter((candidate) => candidate.cut === name);
  const seen = candidates.filter((candidate) => candidate.at.has(name)).length;
  const below = cut.filter((candidate) => candidate.at.get(name).place <= quota).length;
  return { ...facts, n, ran, quota, seen, kept: seen - cut.length, below };
}

const hue = (stage) => `hue${stage.n % 6}`;

/** What became of a candidate, as a class and in words. */
function outcome(shown, candidate) {
  if (candidate.kept) return ["kept", "kept"];
  if (candidate.cut === null) return ["cut", `past ${shown.stages.at(-1).name}'s quota`];
  const stage = shown.stages.find(({ name }) => name === candidate.cut);
  const low = candidate.at.get(stage.name).place <= stage.quota;
  return [`cut ${hue(stage)}`, `cut by ${stage.name}${low ? `, below ${stage.min_score}` : ""}`];
}

function drawFlow(shown) {
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
    const [last, through] = [stages.at(-1), stages.findLast(({ ran }) => ran)];
    const label = `answer, in ${through.name}'s order`;
    rows.push(flowRow(label, count(last.quota), through.kept, answer.items.length, all, "", hue(through)));
  }
  const drawn = table("What each stage kept and cut", ["stage", "quota", "in", "kept", "cut", ""], rows);
  byId("flow").replaceChildren(drawn);
  drawNotes(shown);
}

function flowRow(name, quota, seen, kept, all, note, kind) {
  const share = (number) => (all ? number / all : 0);
  const drawn = bar([[`cut ${kind}`, share(kept), share(seen)], [kind, 0, share(kept)]]);
  return [name, quota, count(seen), count(kept), noted(count(seen - kept), seen > kept ? note : ""), drawn];
}

/** A figure, and what stands small below it, if anything does. */
const noted = (figure, note) => (note ? el("span", {}, figure, el("small", {}, note)) : figure);

function drawNotes({ answer }) {
  const user = {
    given: "The user's columns are those of the request.",
    stored: "The user's columns are those of the user store.",
    new: "The user store does not have the user: ranked as a new one.",
  };
  byId("notes").replaceChildren(
    el("p", {}, user[answer.user]),
    ...listed("Unknown", "neither known nor described, so left out", answer.unknown),
    ...listed("Missing", "columns that were not sent, so ranked as missing", answer.missing),
  );
}

/** Values one beside the other, the first of them where there are many; nothing for none. */
function listed(title, what, values) {
  if (!values.length) return [];
  const rest = values.length > CHIPS ? ` and ${count(values.length - CHIPS)} more` : "";
  const chips = values.slice(0, CHIPS).flatMap((value) => [el("code", {}, plain(value)), " "]);
  return [el("p", {}, el("strong", {}, `${title}: ${count(values.length)}`), ` ${what}. `, chips, rest)];
}

/** Told above the answer: a stage that was not through. */
function fallen({ answer }) {
  const { fallback, stage } = answer;
  if (!fallback) return [];
  const what = FALLEN[fallback.why] ?? fallback.why;
  return [notice("Fallback.", `${fallback.stage} ${what}. The answer is in the order of ${stage}.`)];
}

const notice = (title, words) => el("p", { class: "notice" }, el("strong", {}, title), ` ${words}`);

/** Parts one after another from the arrival of the request; a deadline counts from there, too. */
function drawTime({ answer, stages }) {
  const part = (name, kind, due) => ({ name, kind, due, took: answer.microseconds[name] ?? null });
  const parts = [
    part("receive", "none", null),
    ...stages.map((stage) => part(stage.name, hue(stage), stage.deadline_ms && 1000 * stage.deadline_ms)),
  ];
  const total = parts.reduce((sum, { took }) => sum + took, 0);
  const limits = parts.filter(({ due }) => due !== null);
  // one that is far away would press all else into a corner
  const end = Math.max(total, 1, ...limits.map(({ due }) => due).filter((due) => due < 3 * total));
  let before = 0;
  const rows = parts.map(({ name, kind, took, due }) => {
    const marks = due !== null && due <= end ? [due / end] : [];
    const span = [kind, before / end, (before += took) / end];
    const told = took === null ? ["–", "–"] : [count(took), count(before)];
    return [name, ...told, ...(limits.length ? [due === null ? "" : count(due)] : []), bar([span], marks)];
  });
  const header = ["part", "took, µs", "done after, µs", ...(limits.length ? ["deadline, µs"] : []), ""];
  const note = el("p", { class: "faint" }, "Deadlines count from the arrival of the request, as “done after” does.");
  byId("time").replaceChildren(table("Time by part", header, rows), ...(limits.length ? [note] : []));
}
