// The page: follows the live version, ranks the request, draws the answer.

const EVERY = 3000;
const page = { live: null, shown: null, typing: 0, asking: null, redraw: () => {} };

/** Asks for the live version and whether the service is ready. */
async function look() {
  const [version, ready] = await Promise.allSettled([ask("version"), ask("readyz")]);
  if (version.status === "fulfilled") drawLive(version.value);
  const trouble = troubled(version, ready);
  byId("ready").className = trouble === null ? "good" : "bad";
  retell(byId("ready"), trouble ?? "Ready");
}

function troubled(version, ready) {
  if (version.status === "rejected") return why(version.reason);
  if (ready.status === "fulfilled") return null;
  return ready.reason instanceof Refused ? `Serving on, not up to date: ${ready.reason.message}` : why(ready.reason);
}

/** Sets a text that is read out when it changes, and only then. */
function retell(element, words) {
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
  const older = `The answer below is of ${versionOf(answer)}; live is ${versionOf(page.live)}. Rank again to compare.`;
  byId("notices").replaceChildren(
    ...(same(answer, page.live) ? [] : [notice("Another version is live.", older)]),
    ...fallen(page.shown),
  );
}

/** Says beside the request what it is, or what is wrong with it; true for one that can be sent. */
function check() {
  const text = byId("body").value;
  if (!text.trim()) {
    tell("Paste one, open a file, or take an example; `corank request RUN` prints a logged one.", "");
    return false;
  }
  const wrong = problem(text);
  tell(wrong ?? brief(parsed(text)), wrong === null ? "good" : "bad");
  return wrong === null;
}

function tell(words, kind) {
  byId("said").className = kind;
  byId("body").setAttribute("aria-invalid", kind === "bad");
  retell(byId("said"), words);
}

/** Ranks the request and draws the answer; of two that are under way, the later. */
async function rank() {
  clearTimeout(page.typing); // what the service says is not to be talked over
  if (!check()) {
    byId("body").focus();
    return;
  }
  const text = byId("body").value;
  page.asking?.abort();
  page.asking = new AbortController();
  byId("answer").classList.add("stale");
  let answer;
  try {
    answer = await ask("rank", { method: "POST", body: traced(text), signal: page.asking.signal });
  } catch (error) {
    if (error.name !== "AbortError") fail(why(error));
    return;
  }
  if (!page.live || !same(answer, page.live)) await look();
  // the answer's stages are told by its version alone
  if (answer.model_version !== page.live?.model_version) {
    fail("Another version went live meanwhile; rank again.");
    return;
  }
  remember(text);
  showEarlier();
  draw(followed(parsed(text), answer, page.live));
}

function fail(words) {
  tell(words, "bad");
  byId("told").textContent = page.shown ? "Below is the answer to the request before." : "";
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
  page.redraw = drawPlaces(shown, open);
  drawTime(shown);
  drawCandidates(shown, open);
}

function take(text) {
  byId("body").value = text;
  check();
}

function start() {
  byId("body").addEventListener("input", () => {
    clearTimeout(page.typing);
    page.typing = setTimeout(check, 200);
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
  byId("example").addEventListener("click", () =>
    fetched("example").then(take, (error) => tell(why(error), "bad")));
  byId("file").addEventListener("change", async ({ target }) => {
    if (target.files.length) take(await target.files[0].text());
    target.value = ""; // so that the same file can be opened again
  });
  byId("earlier").addEventListener("change", ({ target }) => {
    if (target.value) take(earlier()[target.value].text);
  });
  byId("forget").addEventListener("click", () => {
    localStorage.removeItem(HELD);
    showEarlier();
  });
  window.addEventListener("resize", () => page.redraw());
  document.addEventListener("visibilitychange", () => document.hidden || look());
  setInterval(() => document.hidden || look(), EVERY);
  check();
  showEarlier();
  look();
}

start();
