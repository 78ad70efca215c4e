// The page: follows the live version, ranks the request, draws the answer.

const EVERY = 3000;
const page = { live: null, shown: null, asking: null, redraw: () => {} };

/** Asks for the live version and whether the service is ready. */
async function look() {
  const [version, ready] = await Promise.allSettled([ask("version"), ask("readyz")]);
  if (version.status === "fulfilled") drawLive(version.value);
  const trouble = [version, ready].find(({ status }) => status === "rejected")?.reason;
  const served = trouble instanceof Refused ? `Serving on, not up to date: ${trouble.message}` : trouble && why(trouble);
  byId("ready").className = trouble ? "bad" : "good";
  retell(byId("ready"), served || "Ready");
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
  const facts = [["model version", version.model_version], ["items_seq", version.items_seq], ["items", count(version.items)]];
  byId("facts").replaceChildren(...facts.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value))));
  drawNotices();
}

const same = (one, other) => one.model_version === other.model_version && one.items_seq === other.items_seq;
const versionOf = ({ model_version, items_seq }) => `model version ${model_version}, items_seq ${items_seq}`;

function drawNotices() {
  if (!page.shown) return;
  const { answer } = page.shown;
  const older = same(answer, page.live) ? [] : [el("p", { class: "notice" }, el("strong", {}, "Another version is live. "),
    `The answer below is of ${versionOf(answer)}; live is ${versionOf(page.live)}. Rank again to compare.`)];
  byId("notices").replaceChildren(...older, ...fallen(page.shown));
}

/** Says beside the request what it is, or what is wrong with it; true for one that can be sent. */
function check() {
  const text = byId("body").value;
  if (!text.trim()) {
    tell("Paste one, or open a file; `corank request RUN` prints a logged one.", "");
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
  if (!check()) return byId("body").focus();
  const text = byId("body").value;
  page.asking?.abort();
  page.asking = new AbortController();
  byId("answer").classList.add("stale");
  try {
    const answer = await ask("rank", { method: "POST", body: traced(text), signal: page.asking.signal });
    if (!page.live || !same(answer, page.live)) await look();
    if (answer.model_version !== page.live.model_version) throw new Refused("Another version went live meanwhile; rank again");
    remember(text);
    showEarlier();
    draw(followed(parsed(text), answer, page.live));
  } catch (error) {
    if (error.name === "AbortError") return;
    tell(why(error), "bad");
    byId("told").textContent = page.shown ? "Below is the answer to the request before." : "";
  }
}

function draw(shown) {
  const { answer, candidates } = shown;
  const open = (candidate) => openItem(shown, candidate);
  page.shown = shown;
  byId("answer").hidden = false;
  byId("answer").classList.remove("stale");
  closeItem();
  byId("told").textContent = `${many(candidates.length, "candidate")} ranked, ${count(answer.items.length)} in the answer, `
    + `by ${versionOf(answer)}.`;
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
  let typing = 0;
  byId("body").addEventListener("input", () => {
    clearTimeout(typing);
    typing = setTimeout(check, 200);
  });
  byId("request").addEventListener("submit", (event) => {
    event.preventDefault();
    rank();
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) rank();
  });
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
