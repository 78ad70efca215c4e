// The page: follows the live version, ranks requests, draws answers.

const EVERY = 3000;
const page = { live: null, shown: null, kept: null, keptAt: "", timer: 0, pending: null, redraw: () => {} };

/** Fetches the live version and the state of the service. */
async function refresh() {
  const [version, status] = await Promise.allSettled([fetchJson("version"), fetchJson("status")]);
  if (version.status === "fulfilled") drawLive(version.value);
  const trouble = findTrouble(version, status);
  byId("ready").className = trouble === null ? "good" : "bad";
  setText(byId("ready"), trouble ?? "Ready");
}

function findTrouble(version, status) {
  const failed = [version, status].find((one) => one.status === "rejected");
  if (failed) return describeError(failed.reason);
  const { draining, source_up, source_error } = status.value;
  if (draining) return "Draining: the service was told to end.";
  return source_up ? null : `Serving, but not up to date: ${source_error}`;
}

/** Sets a text only if it differs, since a screen reader reads every change. */
function setText(element, words) {
  if (element.textContent !== words) element.textContent = words;
}

function drawLive(version) {
  if (JSON.stringify(version) === JSON.stringify(page.live)) return;
  page.live = version;
  document.title = `${version.name} · corank`;
  byId("name").textContent = version.name;
  byId("stages").textContent = version.stages.map(({ name, keep }) => `${name} keeps ${count(keep)}`).join(" → ");
  const { model_version, items_seq, items } = version;
  const facts = [["model version", model_version], ["items_seq", items_seq], ["items", count(items)]];
  byId("facts").replaceChildren(...facts.map(([name, value]) =>
    el("div", {}, el("dt", {}, name), el("dd", {}, value))));
  drawNotices();
}

const same = (one, other) => one.model_version === other.model_version && one.items_seq === other.items_seq;
const versionOf = ({ model_version, items_seq }) => `model version ${model_version}, items_seq ${items_seq}`;

function drawNotices() {
  if (!page.shown) return;
  const { answer } = page.shown;
  const older = `The answer below is by ${versionOf(answer)}; live is ${versionOf(page.live)}. Rank again to compare.`;
  byId("notices").replaceChildren(
    ...(same(answer, page.live) ? [] : [notice("Another version is live.", older)]),
    ...fallbackNotices(page.shown),
  );
}

/** Shows a summary of the request, or what is wrong with it; true if it can be sent. */
function check() {
  const text = byId("body").value;
  if (!text.trim()) {
    tell("Paste a request, open a file or take an example; `corank request RUN` prints a logged one.", "");
    return false;
  }
  const wrong = findProblem(text);
  tell(wrong ?? summarise(parseJson(text)), wrong === null ? "good" : "bad");
  return wrong === null;
}

function tell(words, kind) {
  byId("said").className = kind;
  byId("body").setAttribute("aria-invalid", kind === "bad");
  setText(byId("said"), words);
}

/** Ranks the request and draws the answer; a newer request aborts one that is under way. */
async function rank() {
  clearTimeout(page.timer); // a pending check would replace the message of the service
  if (!check()) {
    byId("body").focus();
    return;
  }
  const text = byId("body").value;
  page.pending?.abort();
  page.pending = new AbortController();
  byId("answer").classList.add("stale");
  let answer;
  try {
    const headers = { "Content-Type": "application/json" };
    answer = await fetchJson("rank", { method: "POST", headers, body: withTrace(text), signal: page.pending.signal });
  } catch (error) {
    if (error.name !== "AbortError") fail(describeError(error));
    return;
  }
  if (!page.live || !same(answer, page.live)) await refresh();
  // only the stages of the live version are known
  if (answer.model_version !== page.live?.model_version) {
    fail("Another version went live during the request; rank again.");
    return;
  }
  remember(text);
  showEarlier();
  draw(combine(parseJson(text), answer, page.live));
}

function fail(words) {
  tell(words, "bad");
  byId("told").textContent = page.shown ? "The answer below is of the previous request." : "";
}

function draw(shown) {
  const { answer, candidates } = shown;
  const open = (candidate) => openItem(shown, candidate);
  page.shown = shown;
  byId("answer").hidden = false;
  byId("answer").classList.remove("stale");
  closeItem();
  const [ranked, kept] = [many(candidates.length, "candidate"), count(answer.items.length)];
  byId("told").textContent = `${ranked} ranked, ${kept} in the answer, by ${versionOf(answer)}.`;
  drawNotices();
  drawFlow(shown);
  page.redraw = drawRankPlot(shown, open);
  byId("time").replaceChildren(...timeTable(shown));
  drawCandidates(shown, open);
  drawKept();
}

/** Keeps an answer to compare with the next ones; null forgets it. */
function keep(shown) {
  page.kept = shown;
  page.keptAt = new Date().toLocaleTimeString();
  drawKept();
}

const drawKept = () => drawCompared(page.kept, page.shown, page.keptAt);

async function openAnswer(file) {
  try {
    keep(readAnswer(await file.text()));
  } catch (error) {
    tell(error.message, "bad");
  }
}

/** Escape closes the item that is open, if it is not that of a field with a text to clear. */
function closeByKey(event) {
  if (event.key !== "Escape" || byId("item").hidden) return;
  if (event.target === byId("find") && byId("find").value) return;
  event.preventDefault();
  closeAndReturn();
}

function startComparing() {
  byId("keep").addEventListener("click", () => keep(page.shown));
  byId("stop").addEventListener("click", () => {
    keep(null);
    byId("keep").focus();
  });
  byId("save").addEventListener("click", () => {
    const { answer } = page.shown;
    download(`answer-${answer.model_version}-${answer.items_seq}.json`, saveAnswer(page.shown));
  });
  byId("saved").addEventListener("change", async ({ target }) => {
    if (target.files.length) await openAnswer(target.files[0]);
    target.value = "";
  });
}

function fillRequest(text) {
  byId("body").value = text;
  check();
}

/** Fills in an example, formatted; `keep` says to keep what is there meanwhile. */
async function fillExample(keep) {
  const text = formatJson(await fetchText("example"));
  if (!keep || !byId("body").value.trim()) fillRequest(text);
}

/** The page opens with an example; why there is none, the state of the service says. */
const openExample = () => fillExample(true).catch(() => {});

function start() {
  byId("body").addEventListener("input", () => {
    clearTimeout(page.timer);
    page.timer = setTimeout(check, 200);
  });
  byId("request").addEventListener("submit", (event) => {
    event.preventDefault();
    rank();
  });
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
    event.preventDefault();
    rank();
  });
  document.addEventListener("unauthorized", () => {
    byId("access").hidden = false;
  });
  byId("token").addEventListener("change", ({ target }) => {
    keepToken(target.value.trim());
    refresh();
    openExample();
  });
  byId("example").addEventListener("click", () =>
    fillExample(false).catch((error) => tell(describeError(error), "bad")));
  byId("file").addEventListener("change", async ({ target }) => {
    if (target.files.length) fillRequest(await target.files[0].text());
    target.value = ""; // so that the same file can be opened again
  });
  byId("earlier").addEventListener("change", ({ target }) => {
    if (target.value) fillRequest(earlier()[target.value].text);
  });
  byId("forget").addEventListener("click", () => {
    localStorage.removeItem(HELD);
    showEarlier();
  });
  startScheme();
  startComparing();
  document.addEventListener("keydown", closeByKey);
  window.addEventListener("resize", () => page.redraw());
  document.addEventListener("visibilitychange", () => document.hidden || refresh());
  setInterval(() => document.hidden || refresh(), EVERY);
  check();
  showEarlier();
  refresh();
  openExample();
}

start();
